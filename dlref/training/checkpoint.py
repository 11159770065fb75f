"""Self-describing checkpoints, written atomically and read as data, never as code.

A run keeps `checkpoints/step-N/` (weights and what training needs to resume) for its last two saves, and
`checkpoints/best-N/` (weights alone); the pointers `last` and `best` name the newest of each. A pointer is a symbolic
link or, where the system allows none, a file with the name of the checkpoint; a program that copies a run may also have
made a folder of it.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import pickletools
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from dlref import filesystem
from dlref.errors import CheckpointError, ConfigError, DlrefError, ResourceError, UnknownNameError, brief
from dlref.training import distributed

FORMAT = 1
MANIFEST = "manifest.json"
FIELDS = {"step": int, "config": dict, "overrides": list, "sizes": dict, "data": dict, "ranks": int}
FIELDS |= {"versions": dict, "files": dict}
# What else a pickle may name, torch's storages and dtypes aside; all of it is as large as what the file holds of it.
PLAIN = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch Size", "torch device"}
PLAIN |= {"collections OrderedDict", "collections Counter", "builtins set", "builtins complex"}
PLAIN |= {"__builtin__ set", "__builtin__ complex"}  # as pickle spells them for Python 2
POINTERS = {"step": "last", "best": "best"}  # kind of checkpoint -> name of the pointer to the newest one
KEPT = 2  # a broken newest checkpoint leaves one to resume from
logger = logging.getLogger("dlref")


class Description(dict[str, Any]):
    """The description of the data in a checkpoint, a dictionary in which a missing key raises CheckpointError."""

    def __init__(self, checkpoint: "Checkpoint", content: Mapping[str, Any]) -> None:
        super().__init__({key: described(checkpoint, value) for key, value in content.items()})
        self.checkpoint = checkpoint

    def __missing__(self, key: str) -> NoReturn:
        raise self.checkpoint.of_another_version([key])

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self.items())  # a copy of it is plain, so that torch.load reads that


def described(checkpoint: "Checkpoint", content: Any) -> Any:
    """The same plain values with a `Description` for each dictionary."""
    if isinstance(content, dict):
        return Description(checkpoint, content)
    return [described(checkpoint, one) for one in content] if isinstance(content, list) else content


def lacked(then: Any, here: Any) -> set[str]:
    """The keys that dictionaries in `then` lack, where those in the same place of `here` have them and describe the same.

    They describe the same if they agree in every text, such as a name, and if all keys of `then` are in `here`: a column of
    numbers has other keys than one of categories, and is another column.
    """
    if isinstance(then, list) and isinstance(here, list):
        return set().union(*(lacked(one, other) for one, other in zip(then, here, strict=False)))
    if not isinstance(then, dict) or not isinstance(here, dict):
        return set()
    if any(key not in here or (isinstance(text, str) and text != here[key]) for key, text in then.items()):
        return set()
    return (here.keys() - then.keys()).union(*(lacked(then[key], here[key]) for key in then))


class Checkpoint(NamedTuple):
    """A whole checkpoint: every file has the sha256 that the manifest names."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return self.manifest["step"]

    def describes(self) -> Description:
        """What using the network requires: vocabulary, normalization, names of classes."""
        try:
            return Description(self, self.manifest["data"])
        except RecursionError:
            raise CheckpointError(
                f"{self.path / MANIFEST} describes its data by values nested too deeply; use another checkpoint"
            ) from None

    def of_another_version(self, lacking: Iterable[str]) -> CheckpointError:
        """The error for a checkpoint whose description of its data lacks keys that are read or compared."""
        names = ", ".join(brief(name, 40) for name in sorted(lacking))
        return CheckpointError(
            f"{self.path} does not say {names} of its data, which this dlref reads; {self.use_its_dlref}train again"
        )

    def of_earlier_version(self, reason: Exception) -> CheckpointError:
        """The error for a checkpoint whose config names what this version of dlref does not have."""
        return CheckpointError(
            f"{self.path} was made by an earlier version of dlref ({reason}); {self.use_its_dlref}train again"
        )

    def require_described(self, here: Mapping[str, Any]) -> None:
        """Raise CheckpointError where the description of its data lacks a key, at any depth, that `here` has of such data."""
        then = self.manifest["data"]
        if lacking := (here.keys() - then.keys()) or lacked(then, here):
            raise self.of_another_version(lacking)

    @property
    def use_its_dlref(self) -> str:
        """The beginning of a remedy: to use the commit that wrote it, or nothing where that is not recorded.

        A version would not tell them apart, as many commits have the same one.
        """
        commit = self.manifest.get("git_commit")
        return f"use the dlref that wrote it (commit {brief(commit, 40)}), or " if isinstance(commit, str) else ""

    def read(self, name: str) -> Any:
        """Tensors and plain values of one file; raises CheckpointError for anything else, without running it."""
        path = self.path / name
        if name not in self.manifest["files"]:
            raise CheckpointError(f"{self.path} has no {name}; it has {', '.join(sorted(self.manifest['files']))}")
        try:
            with open(path, "rb") as file:
                content = loaded(file)
            if name == "weights.pt" and not (isinstance(content, dict) and all(map(is_weight, content.items()))):
                raise ValueError("these are no weights by name")
        except Exception as error:  # which one a crafted file raises is anybody's guess
            raise CheckpointError(
                f"{path} holds something other than tensors and plain values; it is not read"
            ) from error
        return content


def loaded(file: IO[bytes]) -> Any:
    """Tensors and plain values of a file of torch.save; raises an exception for anything else, without running it."""
    require_no_growth(file)
    file.seek(0)
    content = torch.load(file, map_location="cpu", weights_only=True)
    require_whole(content)
    return content


def require_whole(content: Any) -> None:
    """Raise ValueError for a tensor with more elements than its storage, as an expanded one."""
    if any(t.numel() * t.element_size() > t.untyped_storage().nbytes() for t in tensors(content)):
        raise ValueError("a tensor has more elements than the file holds")


def require_no_growth(file: IO[bytes]) -> None:
    """Raise an exception for a file that may take more memory when it is loaded than it has bytes.

    Such are compressed files, torch's older format, which announces sizes, and calls that allocate by a number.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size > size:
                raise ValueError(f"{entry.filename!r} is compressed")
            if entry.filename.lower().endswith(".pkl"):  # torch does not mind capitals
                for code, named, _ in pickletools.genops(archive.read(entry)):
                    if code.name.endswith("GLOBAL") and not is_plain(str(named)):
                        raise ValueError(f"{named!r} is no plain value")


def is_plain(named: str) -> bool:
    module, _, name = named.partition(" ")
    of_torch = module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype))
    return named in PLAIN or of_torch


def is_weight(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def tensors(content: Any) -> Iterator[Tensor]:
    """The tensors in nested plain values."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping | list | tuple):
        for part in content.values() if isinstance(content, Mapping) else content:
            yield from tensors(part)


def open_checkpoint(path: Path) -> Checkpoint:
    """Check every byte against the manifest; raises CheckpointError naming the file that is missing or not as written."""
    try:
        if not os.path.isfile(path / MANIFEST):  # of a pipe or a device there may be no end
            raise FileNotFoundError
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{path / MANIFEST} is of format {manifest['format']!r:.40}, this dlref reads {FORMAT}; install a newer one"
            )
        check_manifest(manifest)
        if manifest["sha256"] != manifest_digest(manifest):
            raise CheckpointError(f"{path / MANIFEST} is damaged: its sha256 is not its own; use another checkpoint")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path / MANIFEST} is missing, so this is not a whole checkpoint; use another one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path / MANIFEST} is not a manifest ({type(error).__name__}: {brief(error)}); use another checkpoint"
        ) from None
    for name, digest in manifest["files"].items():
        file = path / name
        if Path(name).name != name or not name.isprintable():
            raise CheckpointError(
                f"{path / MANIFEST} names {name!r:.80}, which is no file of it; use another checkpoint"
            )
        if not os.path.isfile(file):
            raise CheckpointError(f"{file} is missing; use another checkpoint")
        try:
            damaged = file_digest(file) != digest
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read ({error.strerror}); use another checkpoint") from None
        if damaged:
            raise CheckpointError(f"{file} is damaged: its sha256 is not the manifest's; use another checkpoint")
    return Checkpoint(path, manifest)


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise TypeError or KeyError for one that does not describe a checkpoint."""
    for name, kind in FIELDS.items():
        if not isinstance(manifest[name], kind):
            raise TypeError(f"{name} is {manifest[name]!r}")
    if wrong := [size for size in manifest["sizes"].values() if type(size) is not int or not 0 <= size < 2**63]:
        raise TypeError(f"a size is {wrong[0]!r}")
    if isinstance(env := manifest["data"].get("env"), str) and ":" in env:  # gymnasium imports what is before it
        raise TypeError(f"data.env={env} names a module")


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Of everything else that a manifest says."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpoints:
    """The checkpoints of a run, below `folder`."""

    def __init__(self, folder: Path, rank: int = 0, device: torch.device | None = None) -> None:
        self.folder, self.rank, self.device = folder, rank, device or torch.device("cpu")

    def save(
        self, kind: str, step: int, manifest: dict[str, Any], own: dict[str, Any], shared: dict[str, Any] | None = None
    ) -> None:
        """Write a checkpoint `step` or `best` from file name -> content: rank 0's `shared`, and every rank's `own`.

        It gets its final name when all of it is on disk. Raises ResourceError where the disk is full, leaving the earlier
        checkpoints whole and no partial one.
        """
        temporary = self.folder / f".{kind}-{step:08d}"
        failure: Exception | None = None
        try:
            if self.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
        except OSError as error:
            failure = error
        self.agree(failure, temporary)
        try:
            for name, content in {**own, **(shared or {} if self.rank == 0 else {})}.items():
                with open(temporary / name, "wb") as file:
                    torch.save(content, file)
                    file.flush()
                    os.fsync(file.fileno())
        except Exception as error:  # torch.save raises RuntimeError for a short write, pickle anything
            failure = error
        self.agree(failure, temporary)
        if self.rank:
            self.agree(None, temporary)
            return
        try:
            digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
            said = json.loads(json.dumps({"format": FORMAT, "step": step, **manifest, "files": digests}))
            write_whole(temporary / MANIFEST, json.dumps(said | {"sha256": manifest_digest(said)}, indent=1))
            final = self.folder / f"{kind}-{step:08d}"
            old = self.folder / f".old-{final.name}"
            if final.exists():  # of a run that was resumed from before it, or that was not evaluated at its end
                if old.exists():  # Windows removes no file that another program has open
                    shutil.rmtree(old)
                filesystem.move(final, old)
            filesystem.move(temporary, final)
            sync_folder(self.folder)
            self.point(self.folder / POINTERS[kind], final)
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, TypeError, ValueError) as error:  # or what is described has become something that is no JSON
            failure = error
        self.agree(failure, temporary)
        self.forget_old()

    def forget_old(self) -> None:
        """Keep the newest ones, and the best ones as of each: a run that resumes from there may find no better."""
        steps, bests = self.numbered("step"), self.numbered("best")
        kept = steps[-KEPT:]
        kept += bests[-1:] + [best for step in kept for best in [b for b in bests if number(b) <= number(step)][-1:]]
        for old in [path for path in [*steps, *bests] if path not in kept]:
            shutil.rmtree(old, ignore_errors=True)

    def point(self, pointer: Path, target: Path) -> None:
        """Let `last` or `best` point at this checkpoint."""
        new, old = pointer.with_name(f".{pointer.name}"), pointer.with_name(f".old-{pointer.name}")
        new.unlink(missing_ok=True)
        if not linked(new, target.name):
            write_whole(new, f"{target.name}\n")
        is_folder = pointer.is_dir() and (filesystem.WINDOWS or not pointer.is_symlink())
        if is_folder:  # which no file replaces
            discard(old)
            filesystem.move(pointer, old)
        filesystem.move(new, pointer)
        if is_folder:
            discard(old)

    def agree(self, failure: Exception | None, temporary: Path) -> None:
        """Wait for the other ranks; if any of them has failed, clean up and raise an error on all."""
        if not distributed.all_succeeded(failure is None, self.device):
            if self.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            with distributed.together():
                if failure:
                    raise self.unsaved(failure) from failure

    def unsaved(self, failure: Exception) -> DlrefError:
        if not isinstance(failure, OSError | RuntimeError):
            return ConfigError(
                "a checkpoint takes tensors and plain values, and something in this one is neither "
                f"({type(failure).__name__}: {brief(failure)}); the checkpoint before it is whole"
            )
        is_open = isinstance(failure, PermissionError) and filesystem.WINDOWS
        remedy = "close the program that has a file of it open" if is_open else "make room there"
        return ResourceError(
            f"the checkpoint could not be written to {self.folder} ({str(failure).splitlines()[0]}); {remedy} and resume: the "
            "checkpoint before it is whole"
        )

    def numbered(self, kind: str) -> list[Path]:
        """The folders of a kind, sorted by step."""
        found = [path for path in self.folder.glob(f"{kind}-*") if path.is_dir() and path.name[5:].isdecimal()]
        return sorted(found, key=number)

    def newest(self, kind: str) -> Checkpoint | None:
        """The newest whole checkpoint, by step rather than by date; damaged ones are skipped with a warning."""
        pointer = self.folder / POINTERS[kind]
        if os.path.lexists(pointer) and pointed(pointer) is None:
            what = (
                "points at a checkpoint that is gone"
                if pointer.is_symlink()
                else "does not name a checkpoint that is there"
            )
            logger.warning("%s %s; taking the newest one that is whole", pointer, what)
        # A folder `last` or `best` is a copy of one of the others, unless only it was copied.
        for path in [*reversed(self.numbered(kind)), *([pointer] if is_copy(pointer) else [])]:
            try:
                return open_checkpoint(path)
            except CheckpointError as error:
                logger.warning("passing over a checkpoint: %s", error)
        return None

    def forget_after(self, step: int) -> None:
        """Remove what a killed save has left, and checkpoints after `step`, which is trained again from."""
        try:
            for path in self.folder.glob(".*"):
                discard(path)
            for path in [*self.numbered("step"), *self.numbered("best")]:
                if number(path) > step:
                    path.unlink() if path.is_symlink() else shutil.rmtree(path)  # what a link points at stays
            for kind, name in POINTERS.items():
                pointer, left = self.folder / name, self.numbered(kind)
                if is_copy(pointer):
                    if copied_step(pointer) > step:
                        shutil.rmtree(pointer)  # a save makes a pointer again
                elif left:  # also where the save was killed before it had made the pointer
                    self.point(pointer, left[-1])
        except OSError as error:
            raise ResourceError(
                f"what is left of a later or broken save in {self.folder} cannot be removed ({error}); close the "
                "program that has it open and resume again"
            ) from error
        self.forget_old()


def discard(path: Path) -> None:
    """Remove a file, a link or a folder with all that it holds, as far as that is possible."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def linked(link: Path, target: str) -> bool:
    """Make a symbolic link to a folder, if the system and the disk allow it: FAT and some network disks have none.

    On Windows they need a privilege, and cannot be replaced in one step.
    """
    if filesystem.WINDOWS:
        return False
    try:
        link.symlink_to(target)
    except (OSError, NotImplementedError):
        return False
    return True


def pointed(pointer: Path) -> Path | None:
    """The checkpoint that `last` or `best` leads to, or None; a file can name only those in the same folder."""
    if os.path.isdir(pointer):
        return pointer.resolve()
    try:
        if not os.path.isfile(pointer):  # of a pipe or a device there may be no end
            return None
        with open(pointer, "rb") as file:
            found = re.fullmatch(rb"((step|best)-[0-9]{8,18})\s*", file.read(64))
    except OSError:
        return None
    if found is None or POINTERS[found[2].decode()] != pointer.name:
        return None
    target = pointer.with_name(found[1].decode())
    return target.resolve() if os.path.isdir(target) else None


def followed(path: Path) -> Path:
    """The checkpoint that a file `last` or `best` names; any other path is returned as it is."""
    named = pointed(path) if path.name in POINTERS.values() and os.path.isfile(path) else None
    return named or path


def is_copy(pointer: Path) -> bool:
    """Whether a program that copies what links point at has made a folder of `last` or `best`."""
    return pointer.is_dir() and not pointer.is_symlink()


def copied_step(pointer: Path) -> float:
    """The step of such a folder, or infinity where its manifest cannot be read."""
    try:
        return int(json.loads((pointer / MANIFEST).read_bytes())["step"])
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return math.inf


def number(path: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(path.name[5:])


def find(path: str | Path) -> Checkpoint:
    """A run's best checkpoint, else its last; or the very checkpoint that `path` is. Raises CheckpointError."""
    folder = Path(os.path.expanduser(path))
    # os.path answers "no" where pathlib raises: for names that are too long.
    if any(os.path.exists(folder / name) for name in (MANIFEST, "weights.pt")):
        return open_checkpoint(folder.resolve())
    if folder.name in POINTERS.values() and not os.path.isdir(folder / "checkpoints"):
        if (named := followed(folder)) != folder:
            return open_checkpoint(named)
        home, kinds = folder.parent, [kind for kind, name in POINTERS.items() if name == folder.name]
    else:
        inner = folder / "checkpoints"
        home, kinds = inner if os.path.isdir(inner) else folder, ["best", "step"]
    newest = map(Checkpoints(home).newest, kinds if os.path.isdir(home) else [])
    if (found := next(filter(None, newest), None)) is None:
        what = "has no whole checkpoint" if os.path.isdir(folder) else "does not exist"
        raise CheckpointError(
            f"{folder} {what}; give a run directory as dlref train names it, or one of its checkpoints"
        )
    return found


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a killed writer, never sees a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:  # the same bytes on every system
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        filesystem.move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in it survive a power cut, where a folder can be opened: Windows refuses, and has no need of it."""
    if filesystem.WINDOWS:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def as_data(checkpoint: Checkpoint) -> Iterator[None]:
    """A context in which errors of a checkpoint's own config become a CheckpointError: the file is at fault, not the user."""
    try:
        yield
    except CheckpointError:
        raise
    except UnknownNameError as error:
        raise checkpoint.of_earlier_version(error) from error
    except DlrefError as error:
        if error.exit_code != 2:
            raise
        raise CheckpointError(
            f"{checkpoint.path / MANIFEST} does not describe a model that can be built: {error}"
        ) from error
