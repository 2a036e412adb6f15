"""`itwin-export emulator`: an iTwin Platform for trials and tests."""

import asyncio
import errno
import os
import re
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from itwin_export_async.cli.commands.demo import names
from itwin_export_async.cli.errors import UsageError, user_input
from itwin_export_async.cli.output.console import echo

if TYPE_CHECKING:  # no other command waits for the emulator to be imported
    from itwin_export_async.emulator import Emulator, ServerAddress

_SLOW = 10  # times the usual duration
_MEDIAN_SECONDS = 420.0
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")


async def serve_emulator(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")
    ] = 8321,
    public_url: Annotated[
        str | None, typer.Option(help="URL that links name, as behind a reverse proxy.")
    ] = None,
    imodels: Annotated[int, typer.Option(min=1, max=100, help="Number of iModels.")] = 3,
    tier: Annotated[
        str | None, typer.Option(help="Rate limit: Community, Standard or Premium.")
    ] = None,
    quirks: Annotated[
        str | None, typer.Option(help="Odd forms of answers: all, or names with commas.")
    ] = None,
    chaos: Annotated[
        int | None, typer.Option(help="Seed of random faults.", metavar="SEED")
    ] = None,
    fail: Annotated[int, typer.Option(min=0, help="iModels whose exports fail.")] = 0,
    slow: Annotated[int, typer.Option(min=0, help="iModels whose exports take 10 times long.")] = 0,
    no_access: Annotated[int, typer.Option(min=0, help="iModels without access.")] = 0,
    run_seconds: Annotated[
        str | None,
        typer.Option(help="Seconds of a run before --speed: 30, or 20-40.", metavar="A-B"),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Divides the duration of runs.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal ids and runs.")] = 0,
    env_file: Annotated[
        Path | None, typer.Option(help="File for the variables of a client.", metavar="FILE")
    ] = None,
) -> None:
    """Serve an emulated iTwin Platform until Ctrl-C."""
    # no other command waits for the emulator to be imported
    from itwin_export_async.emulator import Chaos, Emulator

    if fail + slow + no_access > imodels:
        raise UsageError(
            f"--fail, --slow and --no-access name {fail + slow + no_access} iModels, "
            f"and there are {imodels}: raise --imodels"
        )
    with user_input():
        service = Emulator(
            seed=seed,
            speed=speed,
            run_seconds=None if run_seconds is None else _parse_span(run_seconds),
            tier=tier,
            quirks=() if quirks is None else _parse_quirks(quirks),
            chaos=None if chaos is None else Chaos(seed=chaos),
        )
    notes = _add_imodels(service, names(imodels), fail=fail, slow=slow, no_access=no_access)
    async with AsyncExitStack() as stack:
        try:
            served = await stack.enter_async_context(
                service.serve(host=host, port=port, public_url=public_url)
            )
        except OSError as exc:
            raise UsageError(_port_error(port, exc)) from exc
        variables = _variables(service, served)
        if env_file is not None:
            await asyncio.to_thread(_write_env_file, env_file, variables)
        echo(f"An emulated iTwin Platform at {served.base_url} (Ctrl-C ends it)")
        echo(f"  iTwin  {variables['ITWIN_ID']}")
        for imodel_id, name in service.imodels.items():
            echo(f"  iModel {imodel_id}  {name}{notes.get(imodel_id, '')}")
        echo(f"\nIn a browser, the dashboard: {served.base_url}/")
        echo("\nIn another terminal:")
        for name, value in variables.items():
            echo(f"  export {name}={value}")
        echo(f"  itwin-export run {next(iter(service.imodels))} -o bridge.ifc")
        echo(f"  itwin-export batch --itwin {variables['ITWIN_ID']} -o out")
        echo("\nIn PowerShell:")
        for name, value in variables.items():
            echo(f"  $env:{name} = '{value}'")
        if env_file is not None:
            echo(f"\nThe variables are in {env_file}")
        await asyncio.Event().wait()


def _add_imodels(
    service: "Emulator", names: list[str], *, fail: int, slow: int, no_access: int
) -> dict[str, str]:
    """Add iModels, the last of which fail, are slow or give no access. Return notes by id."""
    usual = len(names) - fail - slow - no_access
    kinds = chain([""] * usual, ["fails"] * fail, ["slow"] * slow, ["no access"] * no_access)
    itwin_id, notes = None, {}
    for name, kind in zip(names, kinds, strict=True):
        imodel_id = service.add_imodel(name, itwin_id=itwin_id, authorized=kind != "no access")
        itwin_id = service.itwin_id(imodel_id)
        if kind:
            notes[imodel_id] = f"  ({kind})"
        if kind == "fails":
            service.plan_next_run(imodel_id, "Error", times=None)
        elif kind == "slow":
            configured = service.run_seconds
            usual_seconds = configured[1] if isinstance(configured, tuple) else configured
            seconds = _SLOW * (_MEDIAN_SECONDS if usual_seconds is None else usual_seconds)
            service.plan_next_run(imodel_id, duration=seconds, times=None)
    return notes


def _variables(service: "Emulator", served: "ServerAddress") -> dict[str, str]:
    return {
        "ITP_API_URL": served.base_url,
        "ITP_ISSUER_URL": served.token_url.removesuffix("/connect/token"),
        "ITP_SERVICE_CLIENT_ID": service.client_id,
        "ITP_SERVICE_CLIENT_SECRET": service.client_secret,
        "ITWIN_ID": service.itwin_id(next(iter(service.imodels))),
    }


def _write_env_file(path: Path, variables: dict[str, str]) -> None:
    """Write the variables for the owner only: one of them is a secret."""
    text = "".join(f"{name}={value}\n" for name, value in variables.items())
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _parse_span(text: str) -> float | tuple[float, float]:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise UsageError(f"--run-seconds must be a number or a span such as 20-40, got {text!r}")
    return float(found[1]) if found[2] is None else (float(found[1]), float(found[2]))


def _parse_quirks(text: str) -> str | list[str]:
    return text if text == "all" else [name.strip() for name in text.split(",")]


def _port_error(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken; --port 0 takes one that is free"
    return f"port {port} cannot be used: {os.strerror(error.errno or 0).lower()}"
