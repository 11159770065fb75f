"""dlref play: greedy episodes of a trained agent, with their returns, and a video of them."""

import contextlib
import statistics
from argparse import Namespace
from pathlib import Path
from typing import Any

from dlref.cli.arguments import Parser, add_loading, add_run, file_ending, whole
from dlref.cli.compose import load_plugins
from dlref.cli.loading import load
from dlref.errors import CheckpointError, ConfigError


def add_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument("--episodes", metavar="N", type=whole(1), help="how many; default 10, or 1 with a video")
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole(0),
        default=0,
        help="of the first episode; each next one has one more; default 0",
    )
    parser.add_argument(
        "--video",
        metavar="FILE.gif",
        type=file_ending(".gif"),
        help="write every step as a frame; needs the extra dlref[video]",
    )
    add_loading(parser)
    parser.epilog = """examples:
  dlref play RUN --episodes 100
  dlref play RUN --video cartpole.gif"""


def main(arguments: Namespace) -> int:
    episodes = arguments.episodes or (1 if arguments.video else 10)
    net = load(arguments.run, load_plugins(arguments.plugins), arguments.device)
    play(arguments.run, net, episodes, arguments.seed, arguments.video)
    return 0


def play(run: str, net: Any, episodes: int, seed: int, video: Path | None) -> None:
    from dlref.data.rl.environments import Environments
    from dlref.data.rl.episodes import greedy_episodes

    if "env" not in net.description:
        raise CheckpointError(
            f"{run} was not trained in an environment; dlref evaluate and dlref predict are for other models"
        )
    returns: list[float] = []
    frames: list[Any] = []
    environments = Environments(net.description["env"], vectorized=False, render=video is not None)
    with contextlib.closing(environments):
        net.description.checkpoint.require_described(environments.describe())
        record = None if video is None else lambda: frames.append(frame(environments))
        for number in range(episodes):
            [episode] = greedy_episodes(net, environments, [seed + number], record)
            returns.append(episode.episode_return)
            print(f"episode {number + 1}: return {episode.episode_return:g}, {episode.length} steps")
    if episodes > 1:
        print(f"mean return {statistics.mean(returns):g} ± {statistics.stdev(returns):.3g}")
    if video is not None:
        rate = 15 if environments.is_atari else frames_per_second(environments.envs[0])
        try:
            frames[0].save(video, save_all=True, append_images=frames[1:], duration=1000 / rate, loop=0)
        except OSError as error:
            raise ConfigError(f"{video} cannot be written ({error.strerror}); choose another --video") from None
        print(f"video {video}, {len(frames)} frames")


def frames_per_second(env: Any) -> float:
    rate = (env.metadata or {}).get("render_fps")
    return rate if isinstance(rate, int | float) and rate > 0 else 30


def frame(environments: Any) -> Any:
    """The current frame of the first environment; that of an Atari game, which is small, enlarged."""
    from PIL import Image

    image = Image.fromarray(environments.render())
    return image.resize((336, 336), Image.Resampling.NEAREST) if environments.is_atari else image
