"""`manage.py relay`: apply the nodes' events to the records and wake the browsers, until SIGTERM."""

import signal
from typing import Any

from django.core.management.base import BaseCommand

from webapp.realtime.relay import Relay


class Command(BaseCommand):
    help = "Apply the nodes' events, wake the web processes, send and end what hangs"

    def handle(self, *args: Any, **options: Any) -> None:
        relay = Relay()

        def stop(number: int, frame: Any) -> None:
            relay.stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        relay.run()
