"""The environment variables with which a client finds an emulator."""

from itwin_export_async.emulator import Emulator, ServerAddress

CREDENTIALS = ("ITWIN_ACCESS_TOKEN", "ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET")


def environment(emulator: Emulator, served: ServerAddress | None = None) -> dict[str, str]:
    """For `ExportClient.from_env`. `served`: None for an emulator in memory."""
    return {
        "ITWIN_ACCESS_TOKEN": "",
        "ITP_API_URL": served.base_url if served else "",
        "ITP_ISSUER_URL": served.token_url.removesuffix("/connect/token") if served else "",
        "ITP_SERVICE_CLIENT_ID": emulator.client_id,
        "ITP_SERVICE_CLIENT_SECRET": emulator.client_secret,
    }
