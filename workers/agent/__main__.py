"""`python -m workers.agent`: run the agent of this node until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import uvloop

from engine.config import EngineConfig
from workers import broker
from workers.agent.agent import Agent
from workers.keys import home_folder, make_key
from workers.node import open_engine


async def serve() -> None:
    """Open the engine and run its agent."""
    home = home_folder()
    config = EngineConfig.from_home(home)
    config.make_folders()
    key = make_key(home, config.node)
    engine = await asyncio.to_thread(open_engine, config)
    agent = Agent(engine=engine, config=config, home=home, key=key, redis_url=broker.redis_url(home))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.stop)
    await agent.run()


def main() -> None:
    logging.basicConfig(
        level=os.environ.get("WHARFINGER_LOG_LEVEL", "INFO"), format="%(levelname)s %(name)s: %(message)s"
    )
    os.umask(0o022)
    uvloop.run(serve())


if __name__ == "__main__":
    main()
