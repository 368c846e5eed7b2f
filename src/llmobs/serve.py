"""`llmobs serve`: Granian with our signals."""

import os
import signal
import socket
import sys
from contextlib import nullcontext
from typing import Any

import click
from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server.mp import MPServer

from llmobs.access.setup import check_access
from llmobs.settings import Settings
from llmobs.store.migrate import is_current, upgrade
from llmobs.supervised import shared_folder, supervise


class ReloadingServer(MPServer):
    """Passes SIGHUP on to the workers, which read rules and policies again.

    Granian itself would respawn the workers, and a bad rule pack would then take the service down
    instead of leaving the last good set in force.
    """

    def signal_handler_reload(self, *_: Any) -> None:
        """Forward the signal to every living worker."""
        for worker in self.wrks:
            pid = worker.inner.pid
            if pid is not None and worker.inner.is_alive():
                os.kill(pid, signal.SIGHUP)


def run(settings: Settings, *, migrate: bool) -> None:
    """Serve until a signal ends it. Refuses to start on a database that is not at head.

    SettingsInvalid where the service would be open to strangers, before any worker starts.
    """
    check_access(settings)
    if migrate:
        upgrade(settings, "head")
    elif not is_current(settings):
        click.echo("llmobs: the database is not at the newest schema; run: llmobs migrate", err=True)
        sys.exit(2)
    if not _is_free(settings.api_host, settings.api_port):
        click.echo(
            f"llmobs: something listens on {settings.api_host} port {settings.api_port} already", err=True
        )
        sys.exit(2)
    supervise()
    # Several workers count together, so that a scrape shows their sum whichever it reaches.
    with shared_folder() if settings.api_workers > 1 else nullcontext():
        _server(settings).serve()


def _server(settings: Settings) -> ReloadingServer:
    return ReloadingServer(
        "llmobs.app:create_app",
        factory=True,
        address=settings.api_host,
        port=settings.api_port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.auto,
        workers=settings.api_workers,
        log_level=LogLevels(settings.log_level),
        respawn_failed_workers=True,
        workers_kill_timeout=30,
    )


def _is_free(host: str, port: int) -> bool:
    """Whether nobody listens there. Workers share the port, so a second service would share it as well."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError:
            return False
    return True
