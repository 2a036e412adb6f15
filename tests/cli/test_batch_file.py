"""The file of a batch: what it can say, and how its mistakes are reported."""

import json
import re
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest

from itwin_export_async import ExportRequest, OutputLocation
from itwin_export_async.cli.batch_file import MAX_MISTAKES, Line, escapes_folder, read_sheet
from itwin_export_async.cli.errors import UsageError

M1 = "11111111-1111-4111-8111-111111111111"
M2 = "22222222-2222-4222-8222-222222222222"
SAS = "https://acc.blob.example/c/x.ifc?sv=1&sig=planted%3D"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(text: str | bytes, **defaults: str | None) -> list[Line]:
    """The lines of a file, in which m1 and m2 stand for GUIDs."""
    data = text if isinstance(text, bytes) else text.encode()
    data = data.replace(b"m1", M1.encode()).replace(b"m2", M2.encode())
    return read_sheet(data, "models.csv", folder="out", defaults=defaults)


def requests(text: str | bytes, **defaults: str | None) -> list[ExportRequest]:
    return [line.request for line in lines(text, **defaults)]


def test_table_needs_imodel_ids_only() -> None:
    one, two = requests("imodel_id\nm1\n\nm2\n", display_name="nightly", ifc_version=None)
    expected = ExportRequest(imodel_id=M1, destination=f"out/{M1}/", display_name="nightly")
    assert one == expected
    assert two.destination == f"out/{M2}/"


def test_table_has_a_column_for_each_option() -> None:
    head = "iModel ID,Output,key,displayName,IFC-Version,changeset_id,mapping_file_id,"
    head += "saved_view_id,model_ids,folder_id,replace_older_file,save_logs,revision"
    row = "m1,a/b.ifc,k1,nightly,ifc4.3,c1,f1,v1,0x1; 0x2;,d1,yes,FALSE,r7"
    (request,) = requests(f"{head}\n{row}\n", ifc_version="IFC2x3")
    assert (request.imodel_id, request.key, request.display_name) == (M1, "k1", "nightly")
    assert (request.destination, request.revision) == ("out/a/b.ifc", "r7")
    options = request.options
    assert options.ifc_version == "IFC4.3"
    assert (options.input.changeset_id, options.input.mapping_file_id) == ("c1", "f1")
    assert (options.input.saved_view_id, options.input.model_ids) == ("v1", ("0x1", "0x2"))
    assert (options.output.folder_id, options.output.save_logs) == ("d1", False)
    assert options.output.replace_older_file is True


def test_newer_ifc_version_is_passed_on() -> None:
    (request,) = requests("imodel_id,ifc_version\nm1,IFC4.3 ABV\n")
    assert request.options.ifc_version == "IFC4.3 ABV"


def test_changeset_is_the_revision_unless_another_one_is_given() -> None:
    (request,) = requests("imodel_id,changeset_id\nm1,c1\n")
    assert request.revision == "c1"


def test_own_columns_come_back() -> None:
    (line,) = lines("imodel_id,Owner,Cost centre\nm1,Ann,\n")
    assert line.columns == {"Owner": "Ann"}
    (line,) = lines('{"imodel_id": "m1", "owner": {"name": "Änn"}, "empty": null}')
    assert line.columns == {"owner": '{"name": "Änn"}'}


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffimodel_id;key\r\nm1;Brücke\r\n".encode(),
        "sep=;\r\nimodel_id;key\r\nm1;Brücke\r\n".encode(),
        "imodel_id;key;\r\nm1;Brücke;\r\n;;\r\n".encode(),
        f"imodel_id\tkey\r\n{M1}\tBrücke\r\n".encode("utf-16"),
        "key,imodel_id\nBrücke,m1".encode(),
        '\n{"iModelId": "m1", "key": "Brücke"}\n\n'.encode(),
    ],
)
def test_formats_of_spreadsheets_are_read(data: bytes) -> None:
    (request,) = requests(data)
    assert request == ExportRequest(imodel_id=M1, destination="out/Brücke/", key="Brücke")


def test_json_lines_keep_their_types() -> None:
    line = {
        "imodel_id": M1,
        "output": "elsewhere/",
        "model_ids": ["0x1"],
        "save_logs": True,
        "location": "USER_BLOB_STORAGE",
        "output_sas_url": "https://a.blob.example/x?sig=1",
        "logs_sas_url": "https://a.blob.example/y?sig=1",
        "key": None,
    }
    (request,) = requests(json.dumps(line))
    assert (request.destination, request.key) == ("out/elsewhere/", None)
    assert request.options.input.model_ids == ("0x1",)
    assert request.options.output.location is OutputLocation.USER_BLOB_STORAGE
    assert request.options.output.save_logs is True


def test_key_with_a_slash_is_one_folder() -> None:
    one, two = requests("imodel_id,key\nm1,Köln/Süd\nm2,Bonn\\Süd\n")
    assert (one.destination, two.destination) == ("out/Köln_Süd/", "out/Bonn_Süd/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "models.csv has no exports"),
        ("imodel_id\n", "models.csv has no exports"),
        ("key\nx\n", "models.csv, line 1: there is no imodel_id"),
        ("imodel_id,chnageset\n", "line 1, column 2: 'chnageset' is not known; did you mean 'chan"),
        ("imodel_id,iModelId\n", "line 1, column 2: 'iModelId' is there twice"),
        ("imodel_id,output,destination\n", "column 3: 'destination' is there twice"),
        ("imodel_id,key\nm1,a\n,b\n", "models.csv, line 3: imodel_id is empty"),
        ("imodel_id\n..\n", "line 2: imodel_id '..' is not an id"),
        ("imodel_id\nbridge\n", "line 2: imodel_id 'bridge' is not a GUID such as 7dbd531d-"),
        ("imodel_id\nm1,x\n", "line 2, column 2: 'x' has no column name"),
        ("imodel_id,\nm1,x\n", "line 2, column 2: 'x' has no column name"),
        ("imodel_id,ifc_version\nm1,9\n", "line 2: '9' is not one of 'IFC4.3'"),
        ("imodel_id,ifc_version\nm1,IFC4\n", "line 2: 'IFC4' is called 'IFC4 RV 1.2' here"),
        ("imodel_id,save_logs\nm1,maybe\n", "line 2: save_logs must be true or false, not 'maybe'"),
        ("imodel_id,key\nm1,a\nm2,a\n", "line 3: key 'a' is in line 2 already"),
        ("imodel_id\nm1\n\nm1\n", f"line 4: destination 'out/{M1}' is in line 2 already"),
        ("imodel_id,output\nm1,a.ifc\nm2,./a.ifc\n", "line 3: destination 'out/a.ifc' is in"),
        ("imodel_id,output\nm1,a/\nm1,a/\n", f"line 3: export '{M1} out/a/' is in line 2"),
        ("imodel_id,key\nm1,a/x\nm2,a_x\n", "line 3: destination 'out/a_x' is in line 2"),
        ("imodel_id,output\nm1,../../x.ifc\n", "line 2, column 2: destination '../../x.ifc' is "),
        ("output,imodel_id\n/etc/x,m1\n", "column 1: destination '/etc/x' is outside the output"),
        ("imodel_id,output\nm1,s3://x/y.ifc\n", "line 2: destination 'out/s3://x/y.ifc' is a URL"),
        ('{"imodel_id": "m1", "output": "a/../.."}', "column 2: destination 'a/../..'"),
        ('imodel_id,key\n"m\n1",a\n', "line 2: imodel_id 'm\\n1' is not an id"),
        ('imodel_id\nm1\n"m2', "line 3: not CSV: unexpected end of data"),
        ('sep=,\nimodel_id\n"m2', "line 3: not CSV"),
        ('{"imodel_id": "m1"}\n{', "line 2: not JSON"),
        ("[]", "line 1: not a JSON object"),
        ('{"imodel_id": 5}', "line 1: imodel_id must be a text, not 5"),
        ('{"imodel_id": "m1", "model_ids": []}', "line 1: model_ids is empty"),
        ('{"imodel_id": "m1", "model_ids": 5}', "line 1: model_ids must be a list"),
        ('{"imodle_id": "m1"}', "column 1: 'imodle_id' is not known; did you mean 'imodel_id'?"),
        (b"imodel_id,key\nm1,Br\xfccke", 'line 2: not UTF-8; save the file as "CSV UTF-8"'),
    ],
)
def test_one_mistake_is_one_line_that_says_where(text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        lines(text)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        lines("imodel_id,key,save_logs\nm1,a,\nx,b,\nm1,a,\nm2,c,maybe\n")
    first, *rest = str(caught.value).splitlines()
    assert first == "models.csv has 3 mistakes:"
    assert [line.split(":")[0] for line in rest] == ["  line 3", "  line 4", "  line 5"]


def test_very_many_mistakes_are_counted() -> None:
    with pytest.raises(UsageError) as caught:
        lines("imodel_id\n" + "x\n" * (MAX_MISTAKES + 2))
    assert str(caught.value).splitlines()[-1] == "  and 2 more"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"imodel_id,key\nm1,k,{SAS}\n", "column 3: 'https://acc.blob.example/c/x.ifc?***' has no"),
        (f"{SAS},imodel_id\n", "column 1: 'https://acc.blob.example/c/x.ifc?***' is a signed URL"),
        (f"imodel_id,save_logs\nm1,{SAS}\n", "line 2: save_logs holds a signed URL: are the "),
        (f"imodel_id,key\nm1,{SAS}\n", "line 2: key holds a signed URL: are the columns shi"),
        (f"imodel_id,own\nm1,{SAS}\n", "column 2: own holds a signed URL: are the columns shi"),
        (f"imodel_id,output\nm1,{SAS}/../../../../..\n", "c/x.ifc?***' is outside"),
        (f'{{"imodel_id": "m1", "key": ["{SAS}"]}}', "not ['https://acc.blob.example/c/x.ifc?***'"),
    ],
)
def test_signed_url_in_a_wrong_column_is_not_shown(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        lines(text)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "flavour", "escapes"),
    [
        ("a/../b.ifc", PurePosixPath, False),
        ("./", PurePosixPath, False),
        ("..a/b..", PurePosixPath, False),
        ("C:\\x.ifc", PurePosixPath, False),
        ("a/../../b.ifc", PurePosixPath, True),
        ("/", PurePosixPath, True),
        ("a\\b.ifc", PureWindowsPath, False),
        ("..\\x.ifc", PureWindowsPath, True),
        ("C:x.ifc", PureWindowsPath, True),
        ("\\x.ifc", PureWindowsPath, True),
        ("\\\\host\\share\\x.ifc", PureWindowsPath, True),
    ],
)
def test_destination_is_in_the_output_folder(
    place: str, flavour: type[PurePath], escapes: bool
) -> None:
    assert escapes_folder(place, flavour) is escapes


def test_folders_can_be_shared() -> None:
    one, two = requests("imodel_id,output\nm1,a/\nm2,a/\n")
    assert one.destination == two.destination == "out/a/"
    assert len(requests("imodel_id,output,key\nm1,a/,x\nm1,a/,y\n")) == 2


def test_file_where_a_folder_is_meant_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match=r"line 2: out.*the folder cannot be written"):
        lines("imodel_id\nm1\n")
