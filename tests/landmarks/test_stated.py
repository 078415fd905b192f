"""Statements of files of landmarks about their numbers; spreadsheets and editors never change the meaning."""

import json

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.formats import read_file
from nnunet_ext.landmarks.points import present

FCSV = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n1,1,2,3,0,0,0,1,1,1,0,tip,,\n"


def node(**keys: object) -> str:
    return json.dumps(
        {"markups": [{"type": "Fiducial", **keys, "controlPoints": [{"label": "tip", "position": [1, 2, 3]}]}]}
    )


def simple(**keys: object) -> str:
    return json.dumps({**keys, "landmarks": {"tip": [1, 2, 3]}})


RAS = {
    "key.json": simple(coordinateSystem="RAS"),
    "capital.json": simple(CoordinateSystem="RAS"),
    "parts.json": simple(coordinate_system="ras"),
    "capital.mrk.json": node(CoordinateSystem="RAS"),
    "number.mrk.json": node(coordinatesystem=0),
    "around.mrk.json": json.dumps({"coordinateSystem": "RAS", **json.loads(node())}),
    "name.mrk.json": node(coordinateSystem="RAS", name="LIP"),
    "small.fcsv": f"# coordinatesystem = RAS\n{FCSV}",
    "none.fcsv": FCSV,
    "comment.csv": "# CoordinateSystem = RAS\nname,x,y,z\ntip,1,2,3\n",
    "colon.csv": "# coordinateSystem: RAS\nname,x,y,z\ntip,1,2,3\n",
    "columns.csv": "name,r,a,s\ntip,1,2,3\n",
}
LPS = {
    "mark.json": "\ufeff" + simple(),
    "mark.mrk.json": "\ufeff" + node(),
    "mark.fcsv": "\ufeff# CoordinateSystem = LPS\r\n" + FCSV.replace("\n", "\r\n").replace("columns", "Columns"),
    "mark.csv": "\ufeffname,x,y,z\r\ntip,1,2,3\r\n",
    "semicolons.csv": "Name;X;Y;Z;;\ntip;1;2;3;;\n",
    "tabs.csv": "NAME\tX\tY\tZ\t\ntip\t1\t2\t3\t\n",
    "empty.csv": "name,x,y,z,,\ntip,1,2,3,,\n,,,,,\n",
    "units.mrk.json": node(coordinateUnits=["mm", "UCUM", "millimeter"]),
}


@pytest.mark.parametrize("name", [*RAS, *LPS])
def test_the_coordinate_system_is_the_one_that_the_file_states(tmp_path, name):
    file = tmp_path / name
    file.write_bytes({**RAS, **LPS}[name].encode())
    (landmarks,) = read_file(file).values()
    assert landmarks == {"tip": present((-1, -2, 3) if name in RAS else (1, 2, 3))}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", simple(space="RAS"), "'space': 'RAS'"),
        ("a.json", simple(convention="RAS"), "'convention': 'RAS'"),
        ("a.json", simple(axes="left-posterior-superior"), "key 'axes'"),
        ("a.json", simple(patient="x"), "key 'patient'"),
        ("a.json", simple(coordinateSystem="IJK"), "'IJK'"),
        ("a.json", simple(units="cm"), "units is 'cm'"),
        ("a.json", '{"tip": [1, 2, 3], "tip": [4, 5, 6]}', "'tip' is there twice"),
        ("a.mrk.json", node(space="RAS"), "'space': 'RAS'"),
        ("a.mrk.json", node(anatomical="LPI"), "'anatomical': 'LPI'"),
        ("a.mrk.json", node(CoordinateUnits="um"), "CoordinateUnits is 'um'"),
        ("a.fcsv", f"# Space = LPS\n{FCSV}", "'Space': 'LPS'"),
        ("a.fcsv", f"# units = cm\n{FCSV}", "units is 'cm'"),
        ("a.csv", "# space = RAS\nname,x,y,z\ntip,1,2,3\n", "'space': 'RAS'"),
        ("a.csv", "# unit: cm\nname,x,y,z\ntip,1,2,3\n", "unit is 'cm'"),
        ("a.csv", "# CoordinateSystem = RAS\nname,l,p,s\ntip,1,2,3\n", "says RAS, but its columns l, p, s say LPS"),
        ("a.csv", "name,x,y,z,space\ntip,1,2,3,RAS\n", "column 'space'"),
        ("a.csv", "name,x,y,z,units\ntip,1,2,3,cm\n", "column 'units'"),
        ("a.csv", "name,x,y,z,x\ntip,1,2,3,4\n", "column 'x' twice"),
        ("a.csv", "name,x,y,z\ntip,1,5,2,5,3,5\n", "more cells than there are columns"),
        ("a.csv", "name;x;y;z\ntip;1,5;2,5;3,5\n", "finite numbers are expected"),
    ],
)
def test_what_may_mean_something_else_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        read_file(tmp_path / name)
    assert said in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
