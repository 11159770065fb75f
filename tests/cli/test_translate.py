"""dlref translate: lines in, their translations out."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dlref
from dlref.cli.main import main
from dlref.data.text.line_encoder import LineEncoder
from dlref.decoding.translate import translate_lines
from dlref.training.checkpoint import find, manifest_digest
from tests.conftest import SMALL, assert_one_sentence, start

Train = Callable[..., tuple[int, str]]
PAIRS = {
    "ein hund schläft": "a dog sleeps",
    "die katze sitzt auf der matte": "the cat sits on the mat",
    "ein hund und eine katze": "a dog and a cat",
    "die matte schläft nicht": "the mat does not sleep",
}


class Input(io.TextIOWrapper):
    """Standard input, which a test may take for a terminal."""


def learned(folder: Path, *network: str) -> str:
    """Four sentences, by heart."""
    for name, lines in (("a.de", PAIRS), ("a.en", PAIRS.values())):
        (folder / name).write_text("\n".join([*lines] * 30), encoding="utf-8")
    line = ["data=parallel", f"data.train=[{folder / 'a.de'},{folder / 'a.en'}]", "data.level=words"]
    line += ["data.batch_size=8", "data.bucket_noise=9", "network.width=16", "optimizer.lr=0.01", "reports=null"]
    line += ["trainer.max_steps=200", "device=cpu", "threads=1", f"run_dir={folder / 'run'}"]
    assert main(["train", *line, *network]) == 0
    return str(folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return learned(tmp_path_factory.mktemp("by_heart"), "model=seq2seq", "network.hidden=24")


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that sees 12 tokens at most."""
    network = ("model=transformer", "network.heads=2", "network.context=12", "optimizer.lr=0.02")
    return learned(tmp_path_factory.mktemp("by_heart"), *network)


@pytest.fixture
def translate(run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What is written to standard output for text on standard input."""

    def of(text: str, *arguments: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(text.encode())))
        assert main(["translate", run, *arguments]) == 0
        return capsys.readouterr().out

    return of


def test_what_was_learned_by_heart_comes_line_by_line(translate: Callable[..., str], tmp_path: Path) -> None:
    for arguments in ([], ["--beam", "4"], ["--batch", "1"], ["--beam=2", "--penalty=0", "--batch=3"]):
        assert translate("".join(f"{line}\n" for line in PAIRS), *arguments).splitlines() == [*PAIRS.values()]
    lines = [*PAIRS, "", "   ", *reversed(PAIRS)]
    expected = "".join(f"{PAIRS.get(line, '')}\n" for line in lines)
    assert translate("\n".join(lines)) == expected  # without a line feed behind the last
    assert translate("\r\n".join(lines) + "\r\n") == expected
    assert translate("") == ""
    assert translate("\n") == "\n"
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("\n".join(lines[:3]), encoding="utf-8")
    other.write_text("\n".join(lines[3:]), encoding="utf-8")
    assert translate("ein hund", str(one), str(other)) == expected
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress("\ufeff".encode() + "\n".join(lines).encode()))
    assert translate("", str(packed)) == expected
    assert translate("\ufeff" + "\n".join(lines)) == expected


@pytest.mark.faults
def test_fault_19_a_line_longer_than_any_of_training_is_translated(translate: Callable[..., str]) -> None:
    lines = ["ein hund schläft " * 1500, *PAIRS]
    written = translate("\n".join(lines), "--length-limit", "40").splitlines()
    assert 0 < len(written[0].split()) <= 40
    assert written[1:] == [*PAIRS.values()]


@pytest.mark.faults
@pytest.mark.parametrize("arguments", [[], ["--beam", "4"], ["--batch", "1"], ["--length-limit", "40"]], ids=" ".join)
def test_fault_19_a_line_longer_than_the_context_is_cut_and_the_others_are_translated(
    arguments: list[str], transformer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*PAIRS, "ein hund schläft " * 1500, "", "zebra " * 12, "zebra " * 11, "die matte " * 6]
    (tmp_path / "lines").write_text("\n".join(lines), encoding="utf-8")
    assert main(["translate", transformer, str(tmp_path / "lines"), *arguments]) == 0
    written, said = capsys.readouterr()
    texts = written.splitlines()
    assert len(texts) == len(lines)
    assert texts[:4] == [*PAIRS.values()]
    assert [0 < len(text.split()) <= 12 for text in texts[4:]] == [True, False, True, True, True]
    assert said.startswith(
        "3 of 9 lines are longer than the network's context of 12 tokens, up to 4,501 with their ends"
    )
    assert len(said.splitlines()) == 1


def test_flags_reach_the_search(translate: Callable[..., str], run: str) -> None:
    lines = ["katze matte hund und der nicht auf", "nicht nicht auf sitzt ein zebra"]
    net: Any = dlref.load(run)
    source, target = (LineEncoder.described(net.description[side]) for side in ("source", "target"))
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in net.parameters():  # what has learned nothing is in doubt
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    both = "\n".join(lines)
    assert translate(both, "--length-limit", "2").splitlines() == [
        " ".join(text.split()[:2]) for text in translate_lines(dlref.load(run), source, target, lines)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dlref, "load", lambda run, plugins: net)
        found = {}
        for beam, penalty in ((1, 0.6), (5, 0.0), (5, 3.0)):
            found[beam, penalty] = translate(both, "--beam", str(beam), "--penalty", str(penalty)).splitlines()
            assert found[beam, penalty] == translate_lines(net, source, target, lines, beam, length_penalty=penalty)
        assert len({*map(tuple, found.values())}) == 3
        assert translate(both, "--beam", "5").splitlines() == translate_lines(net, source, target, lines, 5)
        with torch.no_grad():
            net.out.bias[1] = 9
        assert "<unk>" not in translate(both)
        assert "<unk>" in translate(both, "--unknown")


def test_lines_are_translated_as_they_come(translate: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = translate("\n".join([*PAIRS] * 5))
    parts: list[list[str]] = []

    def noted(net: Any, source: LineEncoder, target: LineEncoder, lines: list[str], **settings: Any) -> list[str]:
        parts.append(lines)
        return translate_lines(net, source, target, lines, **settings)

    monkeypatch.setattr("dlref.decoding.translate.translate_lines", noted)
    monkeypatch.setattr("dlref.cli.commands.translate.READ_AHEAD", 7)
    assert translate(" \r\n".join([*PAIRS] * 5)) == whole
    assert [len(part) for part in parts] == [7, 7, 6]
    assert [line for part in parts for line in part] == [*PAIRS] * 5  # without what stands about a line
    monkeypatch.setattr(Input, "isatty", lambda stream: True)
    assert translate("\n".join(PAIRS)).splitlines() == [*PAIRS.values()]
    assert parts[3:] == [[line] for line in PAIRS]


@pytest.mark.faults
def test_fault_29_a_reader_that_leaves_ends_it_quietly(run: str, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.write_text("ein hund schläft\n" * 9000, encoding="utf-8")
    process = start("translate", run, str(many))
    assert process.stdout
    assert process.stdout.readline() == "a dog sleeps\n"
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert process.stderr
    assert process.stderr.read() == ""


@pytest.mark.faults
def test_fault_29_what_is_no_text_or_not_there_is_said_in_a_sentence(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> str:
        assert main(["translate", run, *arguments]) == 3
        out, errors = capsys.readouterr()
        assert not out
        assert len(errors.splitlines()) == 1
        return errors

    (tmp_path / "latin").write_bytes("ein hund\ndie Tür\n".encode("latin-1"))
    assert "line 2 of " in (errors := said(str(tmp_path / "latin")))
    assert "not UTF-8" in errors
    (tmp_path / "nul").write_bytes(b"ein hund\nein\0hund\n")
    assert "line 2 of " in (errors := said(str(tmp_path / "nul")))
    assert "holds a NUL byte" in errors
    (tmp_path / "wide").write_bytes("ein hund\n".encode("utf-16"))
    assert "line 1 of " in (errors := said(str(tmp_path / "wide")))
    assert "not UTF-8" in errors
    assert "cannot be read (No such file" in said(str(tmp_path / "nowhere"))
    assert "cannot be read (Is a directory" in said(str(tmp_path))
    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(b"\xff\xfe")))
    assert "line 1 of standard input holds bytes that are not UTF-8" in said()
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["translate", run]) == 2
    assert "standard input is closed" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "RUN is missing"),
        (["nowhere"], 4, "nowhere does not exist"),
        (["nowhere", "--beam"], 2, "--beam needs a value"),
        (["nowhere", "--baem", "2"], 2, "did you mean '--beam'"),
        (["nowhere", "--beam", "0"], 2, "--beam is '0'"),
        (["nowhere", "--batch", "0"], 2, "--batch is '0'"),
        (["nowhere", "--length-limit", "0"], 2, "--length-limit is '0'"),
        (["nowhere", "--penalty", "-1"], 2, "penalty is -1"),
        (["nowhere", "--penalty", "nan"], 2, "penalty is nan"),
        (["nowhere", "--penalty", "much"], 2, "--penalty is 'much'"),
    ],
)
def test_fault_29_a_wrong_command_is_one_sentence(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_sentence(["translate", *arguments], code, said, capsys)


@pytest.mark.faults
def test_fault_29_a_model_of_something_else_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("mlp", "lstm_lm", "transformer_lm"):
        train(*SMALL[model], "trainer.max_steps=2", f"run_dir={tmp_path / model}")
        assert main(["translate", str(tmp_path / model)]) == 4
        assert "is no translator; dlref train model=seq2seq or transformer makes one" in capsys.readouterr().err


@pytest.mark.slow
def test_translating_needs_no_sacrebleu(run: str) -> None:
    code = f"import sys; sys.modules['sacrebleu'] = None; from dlref.cli.main import main; main(['translate', {run!r}])"
    found = subprocess.run(
        [sys.executable, "-c", code], input="ein hund schläft", capture_output=True, text=True, encoding="utf-8"
    )
    assert (found.stdout, found.stderr) == ("a dog sleeps\n", "")


def test_dlref_evaluate_translates_every_line_of_a_split(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SMALL["seq2seq"], "reports.translation.max_lines=7", "trainer.max_steps=2"]
    run, counts = shutil.copytree(trained(*settings), tmp_path / "run"), list[int]()

    def counted(
        net: Any, source: LineEncoder, target: LineEncoder, lines: list[str], *more: Any, **settings: Any
    ) -> list[str]:
        counts.append(len(lines))
        return lines

    monkeypatch.setattr("dlref.reports.translation_quality.translate_lines", counted)
    assert main(["evaluate", str(run), "--split", "eval"]) == 0
    assert counts == [20]
    assert "exact_match" in capsys.readouterr().out


def test_a_translator_of_another_version_is_refused_in_a_sentence(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(find(run).path, tmp_path / "old")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["data"]["source"]["lowercase"]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
    assert main(["translate", str(folder), os.devnull]) == 4
    assert "does not say lowercase of its data, which this dlref reads" in capsys.readouterr().err
