"""Checkpoints that were changed after they were written, that somebody else has made up, or that belong elsewhere."""

import hashlib
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dlref
from dlref.cli.main import main
from dlref.errors import CheckpointError
from dlref.training.checkpoint import Checkpoints, manifest_digest, open_checkpoint
from dlref.training.run import processor
from tests.conftest import MODELS, SMALL, first, needs_posix
from tests.faults.hostile import bomb
from tests.faults.processes import refusal
from tests.training.test_resume import assert_same, everything

pytestmark = pytest.mark.faults
Train = Callable[..., tuple[int, str]]
Copy = Callable[[str], Path]
Trained = Callable[..., Path]
SETTINGS = ["~reports", "trainer.max_steps=8", "trainer.save_every=4", "trainer.monitor=null"]
FILES = ("weights.pt", "training.pt", "rank-0.pt", "manifest.json")
OLDER, NEWER = "step-00000004", "step-00000008"


@pytest.fixture
def finished(trained: Trained) -> Copy:
    """A run of a model, with checkpoints of the steps 4 and 8, only to be read."""
    return lambda model: trained(*SMALL[model], *SETTINGS)


@pytest.fixture
def copy(finished: Copy, tmp_path: Path) -> Copy:
    def one(model: str) -> Path:
        return Path(shutil.copytree(finished(model), tmp_path / model, symlinks=True))

    return one


def hashes_of(checkpoint: Path) -> dict[str, str]:
    files = [path for path in checkpoint.iterdir() if path.name != "manifest.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def say(checkpoint: Path, **changes: Any) -> None:
    """Rewrite a manifest so that it is whole, as anybody can who can write there."""
    manifest = json.loads((checkpoint / "manifest.json").read_text()) | changes
    manifest["files"] = hashes_of(checkpoint)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))


CHANGED: dict[str, dict[str, Any]] = {
    "threads was 7": {"threads": 7},
    "torch was 1.13": {"versions": {"torch": "1.13"}},
    "gpu was H100": {"hardware": {"cpu": processor(), "gpu": "H100"}},
    "cpu was abacus": {"hardware": {"cpu": "abacus", "gpu": None}},
}


@pytest.mark.parametrize(
    ("what", "model"),
    first(
        *zip(CHANGED, ["mlp", "lstm_lm", "dqn", "transformer_lm"], strict=True),
        of=itertools.product(CHANGED, SMALL),
    ),
)
def test_fault_05_other_threads_torch_or_hardware_are_warned_of_and_go_on(
    what: str, model: str, copy: Copy, train: Train
) -> None:
    run = copy(model)
    code, said = train(f"resume={run}", "trainer.max_steps=9")
    assert code == 0
    assert "not bit-exact" not in said
    say(run / "checkpoints" / "step-00000009", **CHANGED[what])
    code, said = train(f"resume={run}", "trainer.max_steps=10")
    assert code == 0
    assert f"{what} and is " in said
    assert "not bit-exact" in said
    assert everything(run)["training.pt"]["progress"]["step"] == 10


@pytest.mark.parametrize(
    ("model", "override", "named"),
    [
        (
            "mlp",
            "network.widths=[16,13]",
            ["net.layers.5.weight is 12×16 there, 13×16 here", "widths [16, 12] → [16, 13]"],
        ),
        ("mlp", "network.norm=null", ["net.layers.1.bias is only here", "network.norm batch → None"]),
        ("lstm_lm", "network.width=14", ["net.embed.weight is 378×12 there, 378×14 here", "network.width 12 → 14"]),
        ("lstm_lm", "network.layers=1", ["net.recurrent.layers.1.weight_ih_l0 is only there", "network.layers 2 → 1"]),
        ("dqn", "network.widths=[17]", ["net.layers.0.weight is 16×4 there, 17×4 here", "network.widths [16] → [17]"]),
        ("mlp", "optimizer=sgd", ["dlref.optimizers.adam.AdamW → torch.optim.SGD"]),
        ("mlp", "optimizer.amsgrad=true", ["optimizer.amsgrad False → True"]),
    ],
)
def test_fault_06_another_model_is_refused_by_names_shapes_and_overrides(
    model: str, override: str, named: list[str], copy: Copy, train: Train
) -> None:
    run = copy(model)
    code, said = train(f"resume={run}", override, "trainer.max_steps=10")
    assert code == 4
    assert all(part in refusal(said) for part in [str(run), *named])


@pytest.mark.parametrize(
    ("model", "override", "named"),
    [
        ("mlp", "data.points=60", "data.points 50 → 60"),
        ("mlp", "seed=3", "seed 0 → 3"),
        ("lstm_lm", "data.batch_size=6", "data.batch_size 12 → 6"),
        ("dqn", "data.buffer_size=30", "data.buffer_size 40 → 30"),
        ("dqn", "data.buffer_size=80", "data.buffer_size 40 → 80"),
    ],
)
def test_fault_06_other_data_are_refused_unless_they_are_meant(
    model: str, override: str, named: str, copy: Copy, train: Train
) -> None:
    run = copy(model)
    code, said = train(f"resume={run}", override, "trainer.max_steps=10")
    assert code == 4
    assert named in refusal(said)
    assert "trainer.allow_other_data=true" in refusal(said)
    assert train(f"resume={run}", override, "trainer.max_steps=10", "trainer.allow_other_data=true")[0] == 0
    assert everything(run)["training.pt"]["progress"]["step"] == 10


@pytest.mark.parametrize("model", MODELS)
def test_fault_06_another_rate_or_more_steps_are_taken_and_logged(model: str, copy: Copy, train: Train) -> None:
    run = copy(model)
    code, said = train(
        f"resume={run}", "optimizer.lr=0.125", "schedule=constant", "trainer.max_steps=10", "trainer.log_every=1"
    )
    assert code == 0
    assert "→ 0.125" in said
    assert "trainer.max_steps: 8 → 10" in said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if line["split"] == "train"] == [0.125, 0.125]


def damaged(checkpoint: Path) -> Iterator[Path]:
    """Each way in which a file of a checkpoint may be broken, one at a time; which file it is."""
    manifest = (checkpoint / "manifest.json").read_bytes()
    cases: list[tuple[str, bytes | None]] = [
        ("manifest.json", content)
        for content in (None, b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"format": 2}')
    ]
    cases.append(("manifest.json", manifest.replace(b'"format": 1', b'"format": 2')))
    for name in filter(lambda name: (checkpoint / name).exists(), FILES):
        whole = (checkpoint / name).read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        cases += [(name, content) for content in (flipped, b"", whole[:middle], whole[:-1])]
        cases += [(name, None)]
    for name, content in cases:
        file = checkpoint / name
        whole = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        yield file
        file.write_bytes(whole)


def test_fault_07_a_broken_file_is_named_and_passed_over(
    copy: Copy, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = copy("mlp") / "checkpoints" / NEWER
    for file in damaged(newer):
        code, said = train(f"resume={newer}")
        # Without a manifest there is nothing that says that this folder is a checkpoint of a run.
        assert code == 4
        assert str(file) in refusal(said) or not file.exists()
        assert main(["evaluate", str(newer)]) == 4
        assert str(file) in refusal(capsys.readouterr().err)
        found = Checkpoints(newer.parent).newest("step")
        assert found is not None
        assert found.path.name == OLDER
    assert open_checkpoint(newer).step == 8, "it was whole all the time but for that file"


def says(manifest: bytes) -> Any:
    try:
        return json.loads(manifest)
    except ValueError:
        return None


def test_fault_07_every_flipped_bit_is_found(copy: Copy) -> None:
    newer = copy("dqn") / "checkpoints" / NEWER
    meant = json.loads((newer / "manifest.json").read_bytes())
    for name in FILES:
        whole = (newer / name).read_bytes()
        places = range(0, len(whole), 1 if name == "manifest.json" else max(1, len(whole) // 100))
        for place in places:
            broken = bytearray(whole)
            broken[place] ^= 1 << place % 8
            (newer / name).write_bytes(broken)
            if name == "manifest.json" and says(broken) == meant:  # one white space for another
                assert open_checkpoint(newer).manifest == meant
                continue
            with pytest.raises(CheckpointError, match=name):
                open_checkpoint(newer)
        (newer / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "model"),
    first(
        *zip(FILES, ["seq2seq", "mlp", "dqn", "cnn"], strict=True),
        of=itertools.product(FILES, SMALL),
    ),
)
def test_fault_07_auto_goes_on_from_the_newest_whole_one(
    model: str, name: str, finished: Copy, copy: Copy, train: Train
) -> None:
    run = copy(model)
    file = run / "checkpoints" / NEWER / name
    file.write_bytes(file.read_bytes()[:-1])
    code, said = train(*SMALL[model], *SETTINGS, "resume=auto", f"run_dir={run}")
    assert code == 0
    assert str(file) in said
    assert_same(everything(run), everything(finished(model)))


def test_fault_07_auto_does_not_begin_anew_where_all_are_broken(copy: Copy, train: Train) -> None:
    run = copy("mlp")
    for name in (OLDER, NEWER):
        (run / "checkpoints" / name / "weights.pt").write_bytes(b"")
    code, said = train(*SMALL["mlp"], "resume=auto", f"run_dir={run}")
    assert code == 4
    assert f"{run} has no whole checkpoint" in refusal(said)


@pytest.mark.parametrize("model", MODELS)
@needs_posix
def test_fault_08_the_newest_by_step_counts_where_last_leads_nowhere(
    model: str, finished: Copy, copy: Copy, train: Train
) -> None:
    run = copy(model)
    shutil.rmtree(run / "checkpoints" / NEWER)
    assert (run / "checkpoints" / "last").is_symlink()
    code, said = train(f"resume={run}")
    assert code == 0
    assert f"{run / 'checkpoints' / 'last'} points at a checkpoint that is gone" in said
    assert_same(everything(run), everything(finished(model)))


def test_fault_08_the_newest_by_step_counts_where_the_clock_went_back(copy: Copy, train: Train) -> None:
    run = copy("mlp")
    for path in [run / "checkpoints" / NEWER, *(run / "checkpoints" / NEWER).iterdir()]:
        os.utime(path, (0, 0))
    code, said = train(f"resume={run}")
    assert code == 0
    assert "finished at step 8" in said


@pytest.mark.parametrize("name", ["weights.pt", "training.pt", "rank-0.pt"])
@pytest.mark.parametrize("wrapping", ["torch", "among the weights", "pickle"])
def test_fault_09_a_pickle_bomb_is_refused_as_data(
    name: str, wrapping: str, copy: Copy, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer, marker = copy("mlp") / "checkpoints" / NEWER, tmp_path / "exploded"
    evil = bomb(marker)
    if wrapping == "pickle":
        (newer / name).write_bytes(pickle.dumps(evil, protocol=2))
    else:
        torch.save({**torch.load(newer / "weights.pt"), "net": evil} if "weights" in wrapping else evil, newer / name)
    pickle.loads(pickle.dumps(bomb(tmp_path / "works")))
    assert (tmp_path / "works").exists(), "the bomb is one"
    say(newer)
    sentences = []
    code, said = train(f"resume={newer}", "trainer.max_steps=10")
    assert code == 4
    sentences.append(refusal(said))
    if name == "weights.pt":
        assert main(["evaluate", str(newer)]) == 4
        sentences.append(refusal(capsys.readouterr().err))
        with pytest.raises(CheckpointError) as caught:
            dlref.load(newer)
        sentences.append(str(caught.value))
    for sentence in sentences:
        assert str(newer / name) in sentence
        assert "weights_only" not in sentence
    assert not marker.exists()


@pytest.mark.parametrize("name", ["weights.pt", "training.pt", "rank-0.pt"])
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("content", [[], 3, None, {}, {"net.layers.0.weight": 3}, torch.zeros(3)], ids=repr)
def test_fault_09_plain_values_in_the_wrong_places_are_refused(
    name: str, content: Any, copy: Copy, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = copy("mlp") / "checkpoints" / NEWER
    torch.save(content, newer / name)
    say(newer)
    code, said = train(f"resume={newer}", "trainer.max_steps=10")
    assert code == 4
    assert str(newer) in refusal(said)
    if name == "weights.pt":
        assert main(["evaluate", str(newer)]) == 4
        assert str(newer) in refusal(capsys.readouterr().err)


HOSTILE = [
    "os.system",
    "torch.hub.load",
    "builtins.open",
    "builtins.eval",
    "subprocess.run",
    "torch.optim.optimizer.torch.os.system",
    "torch.optim.swa_utils.torch.hub.load",
    "dlref.training.run.os.system",
    "dlref.training.run.subprocess.Popen",
    "dlref.cli.main.main",
    "dlref.training.run.new_folder",
    "dlref.training.run.RunFolder",
    "torch.optim.lr_scheduler.LRScheduler",
    "dlref..os",
    "",
    3,
    ["os.system"],
]


@pytest.mark.parametrize(
    "group",
    first("network", "reports.one", of=["data", "network", "objective", "optimizer", "schedule", "reports.one"]),
)
def test_fault_09_a_config_that_calls_elsewhere_is_refused_as_data(
    group: str, copy: Copy, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer, marker = copy("mlp") / "checkpoints" / NEWER, tmp_path / "exploded"
    honest = json.loads((newer / "manifest.json").read_text())
    section, _, name = group.partition(".")
    for target in HOSTILE:
        call = {"_target_": target, "command": f"touch {marker}", "args": [f"touch {marker}"], "path": str(marker)}
        overrides = [f"{group}._target_={target}", f"+{group}.command='touch {marker}'"]
        say(newer, config=honest["config"] | {section: {name: call} if name else call}, overrides=overrides)
        assert main(["evaluate", str(newer)]) == 4, target
        assert "refused" in refusal(capsys.readouterr().err)
        code, said = train(f"resume={newer}", "trainer.max_steps=10")
        assert code == 4, target
        assert str(newer) in refusal(said)
        if group == "network":
            with pytest.raises(CheckpointError):
                dlref.load(newer)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("run_dir=${oc.env:HOME}", 4),
        ("hydra.searchpath=[file:///tmp]", 4),
        ("+hydra.run.dir=/tmp", 4),
        ("~hydra", 4),
        ("model=../../evil", 4),
        ("model=[mlp,../../evil]", 4),
        ("network.widths=[1", 4),
        ("nonsense", 4),
        (3, 4),
        ("plugins=evil.py", 2),
    ],
)
def test_fault_09_overrides_in_a_checkpoint_reach_no_file_and_no_code(
    override: Any, code: int, copy: Copy, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plug-ins are the command line's alone: the error names them, so that they can be typed again (2)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('exploded', 'w')")
    newer = copy("mlp") / "checkpoints" / NEWER
    say(newer, overrides=[*SMALL["mlp"], override])
    ended, said = train(f"resume={newer}", "trainer.max_steps=10")
    assert ended == code
    assert refusal(said)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("section", "settings", "said"),
    [
        ("data", {"copies": 3}, "data.copies is not a setting of Spiral"),
        (
            "trainer",
            {"passes": 3.0},
            "trainer.passes is not a setting of TrainerConfig; did you mean 'trainer.max_epochs'?",
        ),
        ("network", {"components": 3}, "did you mean 'network.pca_components'?"),
        ("network", {"_target_": "dlref.models.perceptrons.MLP"}, "No module named 'dlref.models.perceptrons'"),
        ("objective", {"_target_": "dlref.objectives.supervised.Digits"}, "has no attribute 'Digits'"),
    ],
)
def test_fault_06_a_checkpoint_of_an_earlier_version_says_so(
    section: str,
    settings: dict[str, Any],
    said: str,
    copy: Copy,
    train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newer = copy("mlp") / "checkpoints" / NEWER
    config = json.loads((newer / "manifest.json").read_text())["config"]
    say(newer, config=config | {section: config[section] | settings}, git_commit="0123abc")
    remedy = "; use the dlref that wrote it (commit 0123abc), or train again"
    sentences = [train(f"resume={newer}", "trainer.max_steps=10")]
    sentences += [(main(["evaluate", str(newer)]), capsys.readouterr().err)]
    if section == "network":
        sentences += [(main(["generate", str(newer)]), capsys.readouterr().err)]
    for code, sentence in sentences:
        assert code == 4
        assert f"{newer} was made by an earlier version of dlref (" in refusal(sentence)
        assert said in refusal(sentence)
        assert refusal(sentence).endswith(remedy)
