"""`computepool facilitator`: the x402 facilitator as a server of its own. Knows nothing of how it settles."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def facilitator(
        host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="0 takes a free port.")] = 4021,
    ) -> None:
        """Serve x402's POST /verify, POST /settle and GET /supported, until it is stopped."""
        import asyncio

        from services.facilitator.__main__ import serve
        from services.logging import configure
        from services.stack.client import local_settings

        settings = local_settings()
        configure(settings.log_level)
        asyncio.run(serve(settings, host, port))
