"""dlref play: greedy episodes of a model that was trained on play, counted and filmed."""

import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.compose import load_plugins, plugin_files
from dlref.cli.loading import load
from dlref.cli.main import require_no_settings, take_flags
from dlref.errors import CheckpointError, ConfigError

HELP = """usage: dlref play RUN_OR_CHECKPOINT [--episodes N] [--seed N] [--video FILE.gif] [--device cpu]
                  [plugins=my.py]

  --episodes N      how many; default 1 with a video, else 10
  --seed N          of the first episode's start, the next one's is one more; default 0
  --video FILE.gif  every step as a picture (pip install 'dlref[video]')
  --device cpu      or cuda, cuda:N, mps, auto: where to compute"""


def main(arguments: Sequence[str]) -> int:
    typed: dict[str, list[str]] = {"--episodes": [], "--seed": [], "--video": [], "--device": []}
    rest = take_flags(arguments, typed, HELP)
    if rest is None:
        return 0
    require_no_settings("play", rest[1:], typed, ["plugins"])
    runs = [a for a in rest if not a.startswith("plugins=")]
    if len(runs) != 1:
        raise ConfigError("dlref play takes one run or checkpoint: dlref play RUN")
    video = Path(typed["--video"][-1]) if typed["--video"] else None
    if video is not None and video.suffix.lower() != ".gif":
        raise ConfigError(f"--video {video} is no .gif; write --video FILE.gif")
    episodes, seed = whole(typed, "--episodes", 1 if video else 10, 1), whole(typed, "--seed", 0, 0)
    play(runs[0], load(runs[0], load_plugins(plugin_files(rest)), typed["--device"]), episodes, seed, video)
    return 0


def whole(typed: dict[str, list[str]], flag: str, default: int, least: int) -> int:
    text = typed[flag][-1] if typed[flag] else str(default)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{flag} is {text}; it takes a whole number from {least}")
    return int(text)


def play(run: str, net: Any, episodes: int, seed: int, video: Path | None) -> None:
    from dlref.data.rl.environments import Environments
    from dlref.data.rl.episodes import greedy_episodes

    if "env" not in net.description:
        raise CheckpointError(f"{run} was not trained on play; dlref evaluate and dlref predict look at other models")
    returns: list[float] = []
    frames: list[Any] = []
    made = Environments(net.description["env"], vectorized=False, render=video is not None)
    with contextlib.closing(made) as environments:
        net.description.checkpoint.require_described(made.describe())
        watch = None if video is None else lambda: frames.append(frame(environments))
        for number in range(episodes):
            [episode] = greedy_episodes(net, environments, [seed + number], watch)
            returns.append(episode.returns)
            print(f"episode {number + 1}: return {episode.returns:g}, {episode.length} steps")
    if episodes > 1:
        print(f"mean return {statistics.mean(returns):g} ± {statistics.stdev(returns):.3g}")
    if video is not None:
        rate = 15 if environments.stacked else frames_per_second(environments.each[0])
        try:
            frames[0].save(video, save_all=True, append_images=frames[1:], duration=1000 / rate, loop=0)
        except OSError as error:
            raise ConfigError(f"{video} cannot be written ({error.strerror}); choose another --video") from None
        print(f"video {video}, {len(frames)} pictures")


def frames_per_second(env: Any) -> float:
    rate = (env.metadata or {}).get("render_fps")
    return rate if isinstance(rate, int | float) and rate > 0 else 30


def frame(environments: Any) -> Any:
    """What is to be seen of the first environment; a game's frame, which is small, enlarged."""
    from PIL import Image

    picture = Image.fromarray(environments.render())
    return picture.resize((336, 336), Image.Resampling.NEAREST) if environments.stacked else picture
