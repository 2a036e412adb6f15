"""`itwin-export check`: whether an export could work, before the night."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer
from attrs import asdict, frozen

from itwin_export_async import (
    AccessReport,
    AuthenticationFailed,
    AuthenticationType,
    ExportClient,
    NotFound,
    PermissionDenied,
    RateLimit,
    TokenError,
)
from itwin_export_async.cli.checks import check_guid
from itwin_export_async.cli.command import TOKEN, Invocation, has_token
from itwin_export_async.cli.commands.auth import CONSENT_DAYS, REDIRECT_URL
from itwin_export_async.cli.errors import UsageError, summary_line
from itwin_export_async.cli.options import AsJson, AuthenticationTypeOption
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.output.format import count, duration
from itwin_export_async.cli.output.json_lines import print_json

MAX_IMODELS = 50  # of an iTwin, whose rights are read one by one
_CONSENT = "authorization"
_ROLES = {
    "imodels_read": "a role with View or Read in the iModel",
    "storage_read": "a role that may read the iTwin's Storage",
    "storage_write": "a role that may write to the target folder in Storage",
}
_REFUSED = (AuthenticationFailed, TokenError, PermissionDenied, NotFound)


@frozen(kw_only=True)
class Finding:
    """One line of the check. `ok` None is for information only."""

    subject: str
    ok: bool | None
    text: str


async def check(
    invocation: Invocation,
    imodel_id: Annotated[
        str | None,
        typer.Argument(help="The iModel's id.", metavar="[IMODEL_ID]", show_default=False),
    ] = None,
    itwin: Annotated[
        str | None,
        typer.Option(
            "--itwin", help="Check every iModel of this iTwin.", metavar="ID", show_default=False
        ),
    ] = None,
    authentication_type: AuthenticationTypeOption = None,
    as_json: AsJson = False,
) -> int:
    """Check token, membership, rights, consent and tier. Starts nothing.

    Exit code 4 when an export could not work.
    """
    if (imodel_id is None) == (itwin is None):
        raise UsageError("give either an IMODEL_ID or --itwin ID")
    needs_consent = authentication_type != AuthenticationType.SERVICE
    findings: list[Finding] = []
    async with invocation.open_client() as client:
        try:
            if imodel_id is not None:
                findings += await _check_imodel(client, check_guid("imodel_id", imodel_id))
            else:
                findings += await _check_itwin(client, check_guid("--itwin", itwin or ""))
            findings.insert(0, _token_finding(client))
        except _REFUSED as error:
            is_token = isinstance(error, AuthenticationFailed | TokenError)
            findings.append(
                Finding(
                    subject="token" if is_token else "access",
                    ok=False,
                    text=f"{summary_line(error)}{'' if is_token else _member_hint()}",
                )
            )
        else:
            findings.append(await _consent_finding(client, needs_consent=needs_consent))
    findings.append(_tier_finding(invocation.rate_limit))
    for finding in findings:
        if as_json:
            print_json(asdict(finding))
        else:
            mark = {True: "ok   ", False: "FAIL ", None: "     "}[finding.ok]
            echo(f"{mark} {finding.subject + ':':<9} {finding.text}")
    if any(finding.ok is False for finding in findings):
        invocation.note("an export would not work")
        return 4
    return 0


async def _check_imodel(client: ExportClient, imodel_id: str) -> list[Finding]:
    imodel = await client.imodels.get(imodel_id)
    report = await client.check_access(imodel_id)
    name = imodel.display_name or imodel_id
    findings = [Finding(subject="iModel", ok=True, text=f"{name} in iTwin {report.itwin_id}")]
    if not imodel.is_initialized:
        findings = [
            Finding(
                subject="iModel", ok=False, text=f"{name} is not initialized: nothing to export"
            )
        ]
    findings.append(_rights_finding(report, name))
    return findings


async def _check_itwin(client: ExportClient, itwin_id: str) -> list[Finding]:
    imodels = await client.imodels.list(itwin_id)
    if not imodels:
        return [
            Finding(subject="iTwin", ok=False, text=f"{itwin_id} lists no iModel{_member_hint()}")
        ]
    ready = [imodel for imodel in imodels if imodel.is_initialized]
    text = f"{itwin_id} lists {count(len(imodels), 'iModel')}, {len(ready)} of them initialized"
    findings = [Finding(subject="iTwin", ok=True, text=text)]
    in_itwin = await client.imodels.get_itwin_permissions(itwin_id)
    lacking: dict[tuple[str, ...], list[str]] = {}
    for imodel in ready[:MAX_IMODELS]:
        report = AccessReport(
            imodel_id=imodel.id,
            itwin_id=itwin_id,
            imodel_permissions=tuple(sorted(await client.imodels.get_permissions(imodel.id))),
            itwin_permissions=tuple(sorted(in_itwin)),
        )
        if report.missing:
            lacking.setdefault(report.missing, []).append(imodel.display_name or imodel.id)
    for missing, names in lacking.items():
        findings.append(Finding(subject="rights", ok=False, text=_lacking_text(missing, names)))
    if not lacking:
        checked = count(min(len(ready), MAX_IMODELS), "iModel")
        findings.append(Finding(subject="rights", ok=True, text=f"all there, of {checked}"))
    if len(ready) > MAX_IMODELS:
        text = f"only the first {MAX_IMODELS} iModels were checked"
        findings.append(Finding(subject="rights", ok=None, text=text))
    return findings


def _rights_finding(report: AccessReport, name: str) -> Finding:
    missing = tuple(right for right in report.missing if right != _CONSENT)
    if missing:
        return Finding(subject="rights", ok=False, text=_lacking_text(missing, [name]))
    return Finding(subject="rights", ok=True, text=", ".join(_ROLES))


def _lacking_text(missing: Iterable[str], names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    roles = "; ".join(f"{right} ({_ROLES.get(right, 'a role with it')})" for right in missing)
    return f"{shown} lacks {roles}; an administrator of the iTwin can give it"


def _member_hint() -> str:
    """How a service application becomes a member, empty for a user's token."""
    application = os.environ.get("ITP_SERVICE_CLIENT_ID", "").strip()
    if not application or has_token():
        return "; the user has to be a member of the iTwin"
    return (
        f"; an administrator has to add {application}@apps.imsoidc.bentley.com to the iTwin, "
        "with a role"
    )


def _token_finding(client: ExportClient) -> Finding:
    ends = client.health().token_expires_at
    if ends is None:
        return Finding(subject="token", ok=True, text="accepted; its end is not known")
    left = max(0.0, (ends - datetime.now(UTC)).total_seconds())
    text = f"accepted; ends at {ends:%Y-%m-%d %H:%M} UTC, in {duration(left)}"
    if has_token():
        text += f"; {TOKEN} is not renewed: a longer batch needs a service application"
    else:
        text += "; it is renewed"
    return Finding(subject="token", ok=True, text=text)


async def _consent_finding(client: ExportClient, *, needs_consent: bool) -> Finding:
    if not needs_consent:
        return Finding(subject="consent", ok=None, text="not needed for Service connections")
    information = await client.get_authorization(REDIRECT_URL)
    if information.is_user_authorized:
        text = (
            f"given; it ends {CONSENT_DAYS} days after it was given, unless the user visits the "
            "page again in the last 10 days"
        )
        return Finding(subject="consent", ok=True, text=text)
    page = information.authorization_url
    text = f"missing; the user can give it{f' at {page}' if page else ''}"
    return Finding(
        subject="consent",
        ok=False,
        text=f"{text}. Service connections do not need it: --authentication-type Service",
    )


def _tier_finding(limit: RateLimit) -> Finding:
    hourly = f" and {limit.per_hour:,} an hour" if limit.per_hour else ""
    text = f"calls are limited to {limit.per_minute:,} a minute{hourly} (--tier)"
    return Finding(subject="tier", ok=None, text=text)
