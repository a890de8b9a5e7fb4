"""The config: what is accepted, the one line that a mistake gets, and the files made from it."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
from configs import FILE, all_told, store, told, with_case, with_source

from harpy_core.config.documents import DEFAULT_CONFIG, generated
from harpy_core.config.mistakes import load
from harpy_core.config.models import DATASETS, Benchmark, Config, Stage
from harpy_core.config.sizes import parse_bytes
from harpy_core.errors import InputError
from harpy_core.planning import preflight
from harpy_core.statistics.declared import STATISTICS

ROOT = Path(__file__).parents[2]


def test_a_case_needs_only_its_source() -> None:
    case = load(with_case(), FILE).cases["liver"]
    assert case.tile is case.aggregate is case.extract is case.benchmark is None


def test_an_empty_section_takes_its_defaults() -> None:
    case = load(with_case(extract={}, aggregate={}), FILE).cases["liver"]
    assert case.extract is not None
    assert case.aggregate is not None
    assert case.extract.diameter == 50
    assert case.aggregate.stats == ["mean", "count"]


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        (
            with_case(extract={"diameter": 0}),
            "cases.liver.extract.diameter = 0: a window must be at least 1 pixel",
        ),
        (
            with_case(aggregate={"spacing": [0.5, 0]}),
            "cases.liver.aggregate.spacing[1] = 0: spacing is metadata, a list of positive "
            "numbers, one for each axis of the labels, or null",
        ),
        (
            with_case(aggregate={"neighbors": "near"}),
            "cases.liver.aggregate.neighbors = near: neighbors are touching, a positive number, or "
            "null",
        ),
        (
            with_case(aggregate={"layers": {"ring": {"ring": [8, 2]}}}),
            "cases.liver.aggregate.layers.ring = {ring}: the outer distance of a ring is the "
            "larger one",
        ),
        (
            with_case(aggregate={"layers": {"a": {"expand": 2, "labels": "nuclei"}}}),
            "cases.liver.aggregate.layers.a = {expand, labels}: give one of labels, expand, ring "
            "and without",
        ),
        (
            with_case(aggregate={"layers": {"rest": {"without": "nucleus"}}}),
            "cases.liver.aggregate = {layers}: layer rest names nucleus, which is no layer before "
            "it",
        ),
        (
            with_case(aggregate={"derived": {"ratio": "nucleus.mean / mean"}}),
            "cases.liver.aggregate = {derived}: derived: ratio = 'nucleus.mean / mean': no layer "
            "is called nucleus: there are none; a statistic of the first labels has no prefix",
        ),
        (
            with_case(
                aggregate={
                    "layers": {"ring": {"ring": [2, 8]}},
                    "derived": {"a": "mean - ring.sum"},
                }
            ),
            "cases.liver.aggregate = {layers, derived}: derived: a = 'mean - ring.sum': ring.sum "
            "is none of stats: mean, count",
        ),
        (
            with_case(extract={"shard_size": 700}),
            "cases.liver.extract = {shard_size}: shard_size = 700: give a multiple of "
            "batch_size, 500",
        ),
        (
            with_case(extract={"codec": "lz5"}),
            "cases.liver.extract.codec = lz5: choose from lz4, zstd, none (did you mean lz4?)",
        ),
        (
            with_case(extract={"diamter": 10}),
            "cases.liver.extract.diamter = 10: there is no such key (did you mean diameter?)",
        ),
        (
            with_case(extract={"diameter": "50"}),
            "cases.liver.extract.diameter = 50: a window must be at least 1 pixel",
        ),
        (
            with_case(extrct={}),
            "cases.liver.extrct = {}: there is no such key (did you mean extract?)",
        ),
        (
            with_case(benchmark={"workers": [1, 0]}),
            "cases.liver.benchmark.workers[1] = 0: workers are a list of different whole numbers "
            "of at least 1",
        ),
        (
            with_case(benchmark={"workers": {"extract": [1, 0]}}),
            "cases.liver.benchmark.workers.extract[1] = 0: workers are a list of different whole "
            "numbers of at least 1",
        ),
        (
            with_case(benchmark={"workers": {"extrct": [1]}}),
            "cases.liver.benchmark.workers.extrct: there is no such key (did you mean extract?)",
        ),
        (
            with_case(tile={"c": 1, "y": 2, "x": 3, "chunks": [1, 4, 4], "shard": [1, 6, 8]}),
            "cases.liver.tile = {c, y, x, chunks, shard}: "
            "shard [1, 6, 8] is no multiple of chunks [1, 4, 4]",
        ),
        (
            {**with_case(), "datasets": {"macsima": {"archive": "a.zip"}}},
            "datasets.macsima: datasets are a mapping of macsima-tonsil or "
            "merscope-liver to where it comes from (did you mean macsima-tonsil?)",
        ),
        (
            {**with_case(), "datasets": {"macsima-tonsil": {}}},
            "datasets.macsima-tonsil = {}: give one of mirror, archive and store",
        ),
        (
            {**with_case(), "datasets": {"macsima-tonsil": {"store": "a", "sha256": "0" * 64}}},
            "datasets.macsima-tonsil = {store, sha256}: a store is not checked: leave sha256 out",
        ),
        (
            {**with_case(), "datasets": {"macsima-tonsil": {"mirror": "ftp://lab"}}},
            "datasets.macsima-tonsil.mirror = ftp://lab: a mirror is an http:// or https:// "
            "address",
        ),
        (
            {**with_case(), "datasets": {"macsima-tonsil": {"archive": "/none.zip"}}},
            "datasets.macsima-tonsil.archive = /none.zip: there is no such file: correct the path",
        ),
        (
            {**with_case(), "datasets": {"macsima-tonsil": {"store": "/none.zarr"}}},
            "datasets.macsima-tonsil.store = /none.zarr: there is no such path: correct it",
        ),
        (
            with_case(benchmark={"workers": [2, 2]}),
            "cases.liver.benchmark.workers = [2, 2]: 2 is named twice",
        ),
        (
            with_case(benchmark={"memory_limit": "48"}),
            "cases.liver.benchmark.memory_limit = 48: a size is a number and a unit, such as 48GB "
            "or 512MiB",
        ),
        (
            with_case(tile={"c": 1, "y": 2}),
            "cases.liver.tile.x is missing: a target size is a whole number of at least 1",
        ),
        (
            {"cases": {"liver": {}}},
            "cases.liver.source is missing: a case needs a source with a uri",
        ),
        ({"cases": {"liver": None}}, "cases.liver = null: a case is a mapping with a source"),
        (
            {"cases": {"li/ver": {"source": {"uri": "ihc"}}}},
            "cases.li/ver: a case's name is made of ASCII letters, digits, - and _",
        ),
        ({"case": {}}, "case = {}: there is no such key (did you mean cases?)"),
        (
            with_case() | {"cluster": {"kind": "slrum"}},
            "cluster.kind = slrum: kinds are local, slurm and address (did you mean slurm?)",
        ),
        (
            with_case() | {"cluster": {"kind": "address"}},
            "cluster = {kind}: give an address with the kind address, and only with it",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(mapping: dict[str, Any], line: str) -> None:
    assert told(mapping) == line


def test_all_mistakes_of_a_config_are_told_at_once(tmp_path: Path) -> None:
    source = {"uri": str(store(tmp_path / "s.zarr", ["dapi"], ["cells"]))}
    cases = {
        "one": {"source": source | {"labels": "cels"}, "extract": {"diameter": 0, "codec": "lz5"}},
        "two": {"source": source | {"channels": ["CD33", "DAPI", "CD4"]}, "engine": "numba"},
        "three": {"source": {"uri": "nowhere"}},
        "fo ur": {"source": source},
        "five": {"aggregate": {}},
    }
    lines = all_told({"cases": cases, "cluster": {"wrkers": 2}})
    assert [line.partition(": ")[0] for line in lines] == [
        "cases.one.extract.diameter = 0",
        "cases.one.extract.codec = lz5",
        "cases.fo ur",
        "cases.five.source is missing",
        "cluster.wrkers = 2",
        "cases.one.source.labels = cels",
        "cases.two.source.channels[0] = CD33",
        "cases.two.source.channels[2] = CD4",
        "cases.three.source.uri = nowhere",
    ]


def test_of_many_mistakes_ten_are_told_and_the_others_counted() -> None:
    cases = {f"case{number:02}": {"source": {"uri": f"no{number}"}} for number in range(13)}
    lines = all_told({"cases": cases})
    assert [line.partition(" ")[0] for line in lines[:10]] == [
        f"cases.case{number:02}.source.uri" for number in range(10)
    ]
    assert lines[10:] == ["3 more mistakes"]


def test_what_a_wrong_key_was_meant_to_give_is_not_told_as_missing(tmp_path: Path) -> None:
    uri = str(store(tmp_path / "s.zarr", ["dapi", "tissue"], ["cells"]))
    assert told(with_source(uri=uri, imag="dapi")).startswith("cases.liver.source.imag: there is")
    assert told(with_source(uri=uri, image=3)).startswith("cases.liver.source.image = 3: ")
    assert told(with_source(urri=uri)).startswith("cases.liver.source.urri: there is")


@pytest.mark.parametrize("value", [7, 1.5, True, date(2026, 11, 26)])
def test_what_yaml_does_not_read_as_text_is_to_be_quoted(value: Any) -> None:
    ends = ": YAML does not read it as text: quote it"
    assert told(with_source(uri="ihc", image=value)).endswith(f": a name is text{ends}")
    lines = all_told(with_source(uri="ihc", channels=["DAPI", value]))
    assert [line.endswith(f".txt, or null{ends}") for line in lines] == [True]
    (line,) = all_told({"cases": {value: {"source": {"uri": "ihc"}}}})
    assert line == f"cases.{str(value).lower()}{ends}"


def test_an_unknown_statistic_is_told_with_the_known_ones() -> None:
    line = told(with_case(aggregate={"stats": ["mean", "mode"]}))
    assert line.startswith("cases.liver.aggregate.stats[1] = mode: no such statistic; choose from")


@pytest.mark.parametrize(
    ("text", "size"), [("48GB", 48 * 10**9), ("512MiB", 512 * 2**20), ("1.5 kB", 1500), ("7B", 7)]
)
def test_sizes_are_parsed(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "48", "GB", "0GB", "-1GB", "4 Gb", "4GBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="such as 48GB"):
        parse_bytes(text)


def test_workers_are_one_list_or_one_for_each_stage() -> None:
    for given, expected in (
        ([1, 4], {"aggregate": [1, 4], "extract": [1, 4]}),
        ({"extract": [32]}, {"aggregate": [1, 2, 4, 8, 16], "extract": [32]}),
    ):
        sweep = load(with_case(benchmark={"workers": given}), FILE).cases["liver"].benchmark
        assert sweep is not None
        assert sweep.workers.model_dump() == expected


def test_more_workers_for_one_stage_than_cores_are_refused() -> None:
    sweep = {"workers": {"aggregate": [1], "extract": [1, 4]}, "threads_per_worker": 2}
    with pytest.raises(InputError, match=r"benchmark\.workers\.extract\[1\] = 4: 4 x 2 threads"):
        preflight.check_cores(load(with_case(benchmark=sweep), FILE), "liver", 7, FILE)


def test_more_workers_than_cores_are_refused() -> None:
    config = load(with_case(benchmark={"workers": [1, 2, 4], "threads_per_worker": 2}), FILE)
    preflight.check_cores(config, "liver", 8, FILE)
    with pytest.raises(InputError) as caught:
        preflight.check_cores(config, "liver", 7, FILE)
    assert str(caught.value) == (
        f"{FILE}: cases.liver.benchmark.workers[2] = 4: 4 x 2 threads are more than the 7 of "
        "--cores: ask for fewer, or give more cores"
    )


def test_the_engine_harpy_needs_a_python_of_its_own() -> None:
    line = told(with_case(benchmark={"engines": ["harpy"]}))
    assert line.startswith("cases.liver.benchmark.peer_python = null: the engine harpy needs")
    sweep = {"engines": ["harpy"], "peer_python": sys.executable}
    preflight.checked(with_case(benchmark=sweep), FILE)


def test_names_are_those_of_the_modules_that_own_them() -> None:
    from harpy_core import datasets
    from harpy_core.benchmark import specs as benchmark

    assert set(DATASETS) == set(datasets.REGISTRY)
    assert set(get_args(Stage)) == set(benchmark.STAGES)


@pytest.mark.parametrize("name", sorted(generated(ROOT)))
def test_generated_files_are_up_to_date(name: str) -> None:
    remedy = "run `python -m harpy_core.config.documents`"
    assert (ROOT / name).read_text(encoding="utf-8") == generated(ROOT)[name], remedy


def test_the_readme_has_the_meaning_and_the_unit_of_every_statistic() -> None:
    rows = re.findall(r"^\| `(\S+)`.* \| (.+) \| (.*) \|$", readme(), re.MULTILINE)
    told_of = {name: (meaning, unit) for name, meaning, unit in rows}
    for name, one in STATISTICS.items():
        assert told_of[name] == (one.description, one.unit)
    assert {"q01", "radial_mean", "pearson_corr_coeff", "manders_coloc_coeff"} < set(told_of)
    assert all(meaning not in (name, "") for name, (meaning, _) in told_of.items())


def readme() -> str:
    """Part of the config's README with the statistics."""
    text = (ROOT / "config/README.md").read_text(encoding="utf-8")
    return text.partition("## Every statistic")[2].partition("## Every key")[0]


def test_every_key_has_a_description() -> None:
    schema = Config.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    assert all(key.get("description") for s in sections for key in s["properties"].values())


def test_the_default_and_the_examples_are_valid() -> None:
    import yaml

    load(DEFAULT_CONFIG, FILE)
    for file in (ROOT / "config").glob("*.yaml"):
        load(yaml.safe_load(file.read_text(encoding="utf-8")), file.name)


def test_defaults_follow_their_own_rules() -> None:
    assert Benchmark.model_validate(Benchmark().model_dump()) == Benchmark()


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harpy_core import datasets, provenance;"
        "from harpy_core.config import crops, mistakes, models;"
        "from harpy_core.planning import plan, preflight; from harpy_core.raster import info;"
        "print([m for m in ('numpy', 'zarr', 'dask', 'numba', 'pandas') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"


def test_statistics_with_parameters_need_them_and_functions_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_stats.py").write_text("def here(pixels, coordinates):\n    return 0\n")
    for section, line in (
        ({"stats": ["mean", "pearson_corr_coeff"]}, "pearson_corr_coeff needs pairs of channels"),
        (
            {"stats": ["mean", "manders_coloc_coeff"], "pairs": [["a", "b"]]},
            "channel 'a' has no threshold",
        ),
        ({"stats": ["mean", "own_stats:there"]}, "own_stats.py defines no there"),
        ({"stats": ["mean", "nowhere:here"]}, "there is no module nowhere"),
        ({"stats": ["mean"], "rings": 0}, "give 1 to 999 rings"),
    ):
        case = {"source": {"uri": "ihc"}, "aggregate": section}
        with pytest.raises(InputError, match=re.escape(line)):
            load({"cases": {"a": case}}, "config.yaml")
    fine = {
        "stats": ["own_stats:here", "radial_mean", "manders_coloc_coeff"],
        "rings": 5,
        "pairs": [["a", "b"]],
        "thresholds": {"a": 3, "b": 4.5},
    }
    case = {"source": {"uri": "ihc"}, "aggregate": fine}
    assert load({"cases": {"a": case}}, "config.yaml").cases["a"].aggregate is not None


@pytest.mark.parametrize("ring", [[2, 8], {"inner": 2, "outer": 8}])
def test_a_ring_is_two_distances_or_names_them(ring: Any) -> None:
    layers = {"background": {"ring": ring}}
    read = load(with_case(aggregate={"layers": layers}), FILE).cases["liver"].aggregate
    assert read is not None
    assert read.layers["background"].ring == [2, 8]


def test_a_ring_of_one_distance_is_told() -> None:
    line = told(with_case(aggregate={"layers": {"a": {"ring": {"inner": 2}}}}))
    assert "a ring is two numbers from 0 to 10000: [inner, outer] or {inner: 2, outer: 8}" in line


def test_a_model_needs_crops_and_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").touch()
    case = {"source": {"uri": "ihc"}, "extract": {}, "embed": {"model": "none.onnx"}}
    with pytest.raises(InputError, match=r"embed\.model = none\.onnx: there is no such file"):
        preflight.checked({"cases": {"a": case}}, "config.yaml")
    without = {"source": {"uri": "ihc"}, "embed": {"model": "model.onnx"}}
    with pytest.raises(InputError, match="embed takes crops: add extract"):
        load({"cases": {"a": without}}, "config.yaml")
    load({"cases": {"a": without | {"extract": {}}}}, "config.yaml")


HALVED = {"dtype": "float16", "scale": 1 / 65535}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"aggregate": {}}, "needs aggregate: {whole_channels: true}"),
        (
            {"aggregate": {"whole_channels": True}, "extract": HALVED},
            "remove extract",
        ),
    ],
)
def test_a_model_whose_pixels_are_normalised_by_whole_channels_needs_their_counts(
    sections: dict[str, Any], told: str
) -> None:
    case = {
        "source": {"uri": "ihc"},
        "extract": {},
        "embed": {"model": "model.onnx", "normalise": "channels"},
    }
    with pytest.raises(InputError, match=told) as refused:
        load({"cases": {"a": case | sections}}, "config.yaml")
    assert "embed.normalise: channels" in str(refused.value)
    load({"cases": {"a": case | {"aggregate": {"whole_channels": True}}}}, "config.yaml")
