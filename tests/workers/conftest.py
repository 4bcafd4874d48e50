from tests.support.worker import node, redis_server

__all__ = ["node", "redis_server"]
