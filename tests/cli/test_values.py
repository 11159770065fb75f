"""A value on a command line arrives as it was typed, whatever it holds, in every command that takes one."""

import functools
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dlref import filesystem
from dlref.cli.commands.evaluate import amended
from dlref.cli.compose import compose, job_override, plugin_files, sweep_override, typed_places, typed_value
from dlref.cli.values import QUOTED, elements, escaped, grammar, in_quotes, is_sweep, literal, read, spell
from dlref.errors import ConfigError

TABLE = ["model=mlp", "data=table", "data.targets=[y]", "data.task=classification"]
PAIRS = ["model=seq2seq", "data=parallel"]
# All that can be printed, and often what a grammar reads: Hydra's, OmegaConf's, YAML's.
LETTERS = st.characters(exclude_categories=("C", "Zl", "Zp")) | st.sampled_from("'\"\\$%&{}[]()=,:#@~^* ;|!?<>/.")
TEXTS = st.text(LETTERS, min_size=1, max_size=30)
ODD = ["ö", "a (1)", "a=b", "it's", "#1", "a@b", "a: b", "a #b.txt", "two words", "$x", "100%", "a&b", "{a}", "007"]
ODD += [
    "12",
    "1e3",
    "true",
    "a,b",
    "[a]",
    "range(1,3)",
    "a\\ b",
    "\\",
    "'a'",
    '"a" b',
    "${",
    "a${b",
    " a ",
    "~",
    "日本語",
]
ODD += ["\\${a}", "'", "\\'", "a\\", "null", "x: [", "*", "-", "--", "+", "!!python/name:a"]


def odd_ones(test: Any) -> Any:
    """The property, for many texts and all that were trouble."""
    for text in ODD:
        test = example(text)(test)
    return settings(max_examples=20)(given(TEXTS)(test))


@functools.cache
def trained(*overrides: str) -> Any:
    """What `evaluate` knows of a checkpoint."""
    return SimpleNamespace(path=Path("run/checkpoints/last"), manifest={"config": compose(overrides)})


def spelled(text: str) -> str:
    """As it is typed for a path: as it is, but for quotes and `${…}`, which mean something else."""
    means_more = re.fullmatch(QUOTED, text) or ("${" in text and literal(text) == text)
    return in_quotes(escaped(text)) if means_more else text


@odd_ones
def test_a_path_arrives_as_it_was_typed(text: str) -> None:
    assume(text != "???")  # which is a value that is missing
    override = f"data.file={spelled(text)}"
    assert compose([*TABLE, override])["data"]["file"] == text
    typed = amended(trained(*TABLE, "data.file=x.csv"), ["evaluate", "run"], [override], True, [])
    assert typed[0]["data"]["file"] == text
    assert typed_value(override, Path | None) == (None if text.lower() == "null" else text)


@odd_ones
def test_paths_in_a_list_arrive_as_they_were_typed(text: str) -> None:
    assume(text != "???")
    lists = [[spell(text), "b c.txt"]]
    if text == text.strip() and not set(text) & set("[](){},'\"\\$"):
        lists.append([text, "b c.txt"])
    for parts in lists:
        override = f"data.train=[{','.join(parts)}]"
        assert compose([*PAIRS, override])["data"]["train"] == [text, "b c.txt"]
        typed = amended(trained(*PAIRS, "data.train=[a,b]"), ["evaluate", "run"], [override], True, [])
        assert typed[0]["data"]["train"] == [text, "b c.txt"]
        assert plugin_files([f"plugins=[{','.join(parts)}]"]) == [text, "b c.txt"]


@odd_ones
def test_what_is_spelled_is_read_and_what_hydra_carries_arrives(text: str) -> None:
    for value in (text, [text, text], {"a": [text]}, [[text], 3, None, True, 0.5]):
        assert typed_value(f"key={spell(value)}") == value
    assert compose(["model=mlp", f"name={spell(text)}"])["name"] == text
    one = f"data.file={in_quotes(text)}"
    for override in (one, f"data.file={spelled(text)}") if elements(text) == [text] and not is_sweep(text) else (one,):
        carried = grammar().parse_override(sweep_override(override, {}))
        assert not carried.is_sweep_override()
        arrived = job_override(f"++data.file={carried.get_value_element_as_str()}")
        assert arrived == override
        assert job_override(carried.input_line) == override


def test_a_value_is_what_hydra_reads_where_its_setting_takes_that() -> None:
    config = compose(["model=mlp", "network.widths=[3, 4]", "network.dropout=0.5", "seed=7", "threads=null", "name=7"])
    assert config["network"]["widths"] == [3, 4]
    assert (config["network"]["dropout"], config["seed"], config["threads"]) == (0.5, 7, None)
    assert config["name"] == "7"  # which takes text
    assert compose([*TABLE[:2], "data.targets=[2020, a b, 007]"])["data"]["targets"] == ["2020", "a b", "007"]
    codes = compose([*TABLE[:2], "data.na_values=[-999, 1.10, NA, NaN, null]"])["data"]["na_values"]
    assert codes == ["-999", "1.10", "NA", "NaN", "null"]  # which takes text and numbers
    assert compose(["model=cnn", "network.blocks=[[3],[4, 5]]"])["network"]["blocks"] == [[3], [4, 5]]
    assert compose(["model=mlp", "trainer.monitor=eval/loss min"])["trainer"]["monitor"] == "eval/loss min"


def test_what_a_list_holds_is_parted_at_its_commas() -> None:
    assert elements("a, 'b, c' ,[d,e],f(g,h)") == ["a", "'b, c'", "[d,e]", "f(g,h)"]
    assert elements("it's.de, it's.en") == ["it's.de", "it's.en"]
    assert elements("a(.de,b.en") == ["a(.de", "b.en"]  # a bracket that nothing closes
    assert elements("a).de,(b.en") == ["a).de", "(b.en"]
    assert elements("a\\,b") == ["a\\,b"]


def test_a_backslash_at_the_end_of_a_folder_escapes_no_comma_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "WINDOWS", True)
    assert elements("a\\,b\\") == ["a\\", "b\\"]
    assert read("..\\a\\b (1)", str) == "..\\a\\b (1)"


def test_a_sweep_is_over_what_its_commas_part() -> None:
    def jobs(override: str) -> list[str]:
        parsed = grammar().parse_override(sweep_override(override, {"model": ["mlp"]}))
        if not parsed.is_sweep_override():
            return [job_override(parsed.input_line)]
        return [job_override(f"{parsed.get_key_element()}={text}") for text in parsed.sweep_string_iterator()]

    assert jobs("seed=0,1") == ["seed=0", "seed=1"]
    assert jobs("seed=range(1,3)") == ["seed=1", "seed=2"]
    assert jobs("trainer.monitor=eval/loss min") == ["trainer.monitor=eval/loss min"]
    assert jobs("trainer.monitor=eval/loss min,eval/nll min") == [
        "trainer.monitor=eval/loss min",
        "trainer.monitor=eval/nll min",
    ]
    assert jobs("network.widths=[3],[4,5]") == ["network.widths=[3]", "network.widths=[4,5]"]
    assert jobs("data.file='a,b ö.csv',c (1).csv") == ["data.file='a,b ö.csv'", "data.file=c (1).csv"]
    assert jobs("name=choice(a b,'c')") == ["name='a b'", "name=c"]
    assert jobs("model=mlp") == ["model=mlp"]
    assert jobs("~reports") == ["~reports"]


@pytest.mark.parametrize("command", ["run_dir", "resume"])
def test_a_place_is_known_before_anything_is_composed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLREF_TEST_FOLDER", "eleven")
    assert typed_places([f"{command}=a", f"{command}='b c'"]) == {command: "b c"}
    assert typed_places([f"{command}=null"]) == {command: None}
    assert typed_places([f"{command}=${{oc.env:DLREF_TEST_FOLDER}}/a b"]) == {command: "eleven/a b"}
    with pytest.raises(ConfigError, match="does not fit"):
        typed_places([f"{command}=${{oc.env:DLREF_TEST_NOTHING}}"])


def test_the_name_of_a_file_may_hold_any_bytes() -> None:
    latin = os.fsdecode(b"\xf6.csv")
    composed = compose([*TABLE, f"data.file={latin}", f"run_dir=runs/{latin}", f"plugins=[a.py,{latin}]"])
    assert composed["data"]["file"] == latin
    assert composed["run_dir"] == f"runs/{latin}"
    assert composed["plugins"] == ["a.py", latin]


@pytest.mark.parametrize("setting", ["goal", "seed", "data.targets"])
def test_other_bytes_that_are_no_text_are_refused_in_a_sentence(setting: str) -> None:
    latin = os.fsdecode(b"\xf6.csv")
    with pytest.raises(ConfigError, match=r"holds bytes that are not utf-8.*PYTHONUTF8=1") as refused:
        compose([*TABLE, f"{setting}={latin}"])
    assert str(refused.value).isprintable()
