"""The eight operations, against the emulator in memory."""

import asyncio

import pytest

from itwin_export_async import (
    AuthenticationType,
    Conflict,
    ExecutionState,
    ExportClient,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RunHandle,
    Session,
    TransportError,
)
from itwin_export_async.emulator import Emulator
from tests.support.fakes import Answers, Outcome, answer


async def test_connection_is_made_read_and_deleted(
    client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    made = await client.create_connection(
        imodel_id, display_name="nightly", authentication_type="Service"
    )
    assert (made.imodel_id, made.display_name) == (imodel_id, "nightly")
    assert made.authentication_type is AuthenticationType.SERVICE
    assert (await client.get_connection(made.id)) == made
    await client.delete_connection(made.id)
    with pytest.raises(NotFound, match="ConnectionNotFound"):
        await client.get_connection(made.id)


async def test_connection_in_use_is_not_deleted(client: ExportClient, emulator: Emulator) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    await client.start_run(connection.id)
    with pytest.raises(Conflict, match="ConnectionAlreadyInUse") as caught:
        await client.delete_connection(connection.id)
    assert caught.value.handle is None


async def test_list_is_read_to_its_end_whatever_its_links_say(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    async with ExportClient(emulator.token(), transport=emulator) as client:
        made = [await client.create_connection(imodel_id, display_name=str(n)) for n in range(7)]
        listed = [c.id async for c in client.list_connections(imodel_id, page_size=3)]
        pages = [
            len(page) async for page in client.list_connections(imodel_id, page_size=3).pages()
        ]
    assert sorted(listed) == sorted(connection.id for connection in made)
    assert pages == [3, 3, 1]


async def test_runs_are_listed_with_the_connection_they_belong_to(
    client: ExportClient, emulator: Emulator
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id)
    await run.wait()
    listed = [seen async for seen in client.list_runs(connection.id)]
    assert [(seen.id, seen.connection_id) for seen in listed] == [(run.run_id, connection.id)]
    assert await anext(client.list_runs(connection.id)) == listed[0]


async def test_snapshot_of_a_run_is_one_request(client: ExportClient, emulator: Emulator) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    handle = await client.start_run(connection.id)
    before = len(emulator.requests)
    run = await client.get_run(connection.id, handle.run_id)
    assert len(emulator.requests) == before + 1
    assert run.state is not ExecutionState.COMPLETED
    assert not run.is_final


async def test_repeated_page_ends_a_list() -> None:
    page = '{"connections": [{"id": "c1"}], "_links": {"next": {"href": "https://x/?$skip=9"}}}'
    transport = Answers(answer(200, page))
    async with ExportClient("token", transport=transport) as client:
        assert [c.id async for c in client.list_connections("m")] == ["c1"]
    assert [r.url.partition("?")[2] for r in transport.requests] == [
        "imodelId=m",
        "imodelId=m&$skip=1",
    ]


async def test_named_connection_is_found_again(client: ExportClient, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    await client.create_connection(imodel_id, display_name="other")
    made = await client.find_or_create_connection(imodel_id, display_name="nightly")
    found = await client.find_or_create_connection(imodel_id, display_name="nightly")
    assert found.id == made.id
    assert emulator.count("create_connection") == 2


async def test_another_authentication_type_is_another_connection(
    client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    user = await client.find_or_create_connection(
        imodel_id, display_name="n", authentication_type="User"
    )
    service = await client.find_or_create_connection(
        imodel_id, display_name="n", authentication_type=AuthenticationType.SERVICE
    )
    assert user.id != service.id


@pytest.mark.parametrize(
    "lost", [ConnectionResetError(), answer(408), answer(502), answer(201, "garbage")]
)
async def test_lost_answer_makes_no_twin(
    client: ExportClient, emulator: Emulator, lost: Outcome
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.inject("create_connection", lost, apply_effect=True)
    made = await client.find_or_create_connection(imodel_id, display_name="nightly")
    assert [c.id async for c in client.list_connections(imodel_id)] == [made.id]
    assert emulator.count("create_connection") == 1


async def test_connection_that_was_not_made_is_said_so(
    client: ExportClient, emulator: Emulator
) -> None:
    emulator.inject("create_connection", *[ConnectionResetError()] * 5)
    with pytest.raises(TransportError, match=r"POST .*/export/connections"):
        await client.find_or_create_connection(emulator.add_imodel(), display_name="nightly")
    assert emulator.count("create_connection") == 5
    assert emulator.count("list_connections") == 1 + 5 * 4  # before each further creation


async def test_concurrent_calls_for_one_name_get_one_connection(
    client: ExportClient, emulator: Emulator
) -> None:
    emulator.latency = 0.1
    imodel_id = emulator.add_imodel()
    made = await asyncio.gather(
        *(client.find_or_create_connection(imodel_id, display_name=name) for name in "aabaab")
    )
    assert len({connection.id for connection in made}) == 2
    assert emulator.count("create_connection") == 2


async def test_client_on_a_borrowed_session_can_be_closed_and_opened_again(
    client: ExportClient, emulator: Emulator
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    borrower = ExportClient(session=client.session)
    async with borrower:
        run = await borrower.start_run(connection.id)
    with pytest.raises(RuntimeError, match="closed"):
        await run.wait()
    async with borrower:
        assert (await run.wait()).is_final


async def test_connection_that_was_not_created_is_created(
    client: ExportClient, emulator: Emulator
) -> None:
    emulator.inject("create_connection", ConnectionResetError(), answer(500))
    imodel_id = emulator.add_imodel()
    made = await client.find_or_create_connection(imodel_id, display_name="nightly")
    assert await client.list_connections(imodel_id) == (made,)


async def test_imodel_without_any_connection_may_be_a_404(
    client: ExportClient, emulator: Emulator
) -> None:
    missing = answer(404, '{"error": {"code": "ConnectionNotFound", "message": "none"}}')
    emulator.inject("list_connections", missing)
    assert (await client.find_or_create_connection(emulator.add_imodel(), display_name="n")).id
    wrong = '{"error": {"code": "x", "message": "x", "details": [{"code": "OperationNotFound"}]}}'
    emulator.inject("list_connections", answer(404, wrong))
    with pytest.raises(NotFound, match="gateway"):
        await client.find_or_create_connection(emulator.add_imodel(), display_name="n")


async def test_refused_connection_is_not_listed_again(
    client: ExportClient, emulator: Emulator
) -> None:
    with pytest.raises(PermissionDenied):
        await client.find_or_create_connection(
            emulator.add_imodel(authorized=False), display_name="nightly"
        )
    emulator.inject("create_connection", answer(422, '{"error": {"code": "No", "message": "no"}}'))
    with pytest.raises(InvalidRequest):
        await client.find_or_create_connection(emulator.add_imodel(), display_name="nightly")
    assert emulator.count("list_connections") == 2


async def test_deletion_whose_answer_was_lost_has_worked(
    client: ExportClient, emulator: Emulator
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    emulator.inject("delete_connection", ConnectionResetError(), apply_effect=True)
    await client.delete_connection(connection.id)
    with pytest.raises(NotFound):
        await client.get_connection(connection.id)


async def test_consent_page_is_read(client: ExportClient) -> None:
    seen = await client.get_authorization("https://example.com/back?a=b")
    assert seen.is_user_authorized
    with pytest.raises(ValueError, match="redirect_url 'here'"):
        await client.get_authorization("here")


@pytest.mark.parametrize("bad", ["", "  ", "..", "a\nb", " a"])
async def test_id_that_is_none_is_named_before_anything_is_sent(
    client: ExportClient, emulator: Emulator, bad: str
) -> None:
    for use in (client.get_connection, client.delete_connection, client.start_run):
        with pytest.raises(ValueError, match="connection_id"):
            await use(bad)
    with pytest.raises(ValueError, match="imodel_id"):
        await client.create_connection(bad)
    with pytest.raises(ValueError, match="imodel_id"):
        client.list_connections(bad)
    with pytest.raises(ValueError, match="connection_id"):
        client.list_runs(bad)
    with pytest.raises(ValueError, match="run_id"):
        client.attach("c1", bad)
    assert not emulator.requests


@pytest.mark.parametrize("wanted", ["a/b", "a?b", "a#b", "a%2Fb", "ä", "../connections"])
async def test_id_stays_one_segment_of_the_path(client: ExportClient, wanted: str) -> None:
    with pytest.raises(NotFound, match="ConnectionNotFound"):
        await client.get_connection(wanted)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (True, TypeError), ("5", TypeError)])
async def test_page_size_that_is_none_is_refused(
    client: ExportClient, size: int, error: type[Exception]
) -> None:
    with pytest.raises(error, match="page_size"):
        client.list_runs("c1", page_size=size)


async def test_borrowed_session_stays_open(emulator: Emulator) -> None:
    async with Session(emulator.token(), transport=emulator) as session:
        async with ExportClient(session=session) as client:
            assert client.session is session
        async with ExportClient(session=session) as client:
            await client.create_connection(emulator.add_imodel())


async def test_client_needs_either_auth_or_a_session(emulator: Emulator) -> None:
    session = Session("token", transport=emulator)
    with pytest.raises(TypeError, match="auth"):
        ExportClient()
    with pytest.raises(TypeError, match="auth, base_url"):
        ExportClient("token", session=session, base_url="https://x.example")
    with pytest.raises(RuntimeError, match="not open"):
        await ExportClient(session=session).__aenter__()
    with pytest.raises(ValueError, match="max_outage"):
        ExportClient("token", max_outage=-1)
    with pytest.raises(TypeError, match=r"schedule must have a method next_wait\(context\)"):
        ExportClient("token", schedule=5)  # type: ignore[arg-type]


async def test_client_that_is_not_open_says_so(emulator: Emulator) -> None:
    client = ExportClient("token", transport=emulator)
    with pytest.raises(RuntimeError, match="async with"):
        await client.get_connection("c1")
    async with client:
        with pytest.raises(RuntimeError, match="open already"):
            await client.__aenter__()
    with pytest.raises(RuntimeError, match="async with"):
        await client.attach("c1", "r1").refresh()


async def test_handle_without_a_client_says_so() -> None:
    with pytest.raises(RuntimeError, match="resume"):
        await RunHandle(connection_id="c1", run_id="r1").refresh()


def test_environment_makes_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ITWIN_ACCESS_TOKEN", "ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ITP_API_URL", "http://127.0.0.1:8321/")
    with pytest.raises(ValueError, match="ITWIN_ACCESS_TOKEN"):
        ExportClient.from_env()
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", "secret")
    assert ExportClient.from_env().session.base_url == "http://127.0.0.1:8321"
    own = ExportClient.from_env(base_url="https://qa-api.bentley.com")
    assert own.session.base_url == "https://qa-api.bentley.com"
    monkeypatch.delenv("ITP_API_URL")
    assert ExportClient.from_env().session.base_url == "https://api.bentley.com"


async def test_connection_name_must_be_a_text(client: ExportClient) -> None:
    with pytest.raises(TypeError, match="display_name must be a string, not NoneType"):
        await client.find_or_create_connection("i", display_name=None)  # type: ignore[arg-type]


async def test_health_is_the_state_of_the_client(client: ExportClient, emulator: Emulator) -> None:
    assert client.health().last_response_at is None
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id)
    waiting = asyncio.create_task(run.wait())
    await asyncio.sleep(5)
    health = client.health()
    assert (health.is_open, health.runs_polled, health.outage_since) == (True, 1, None)
    assert health.last_response_at is not None
    await waiting
