"""Headless recording of first-person clips with one action per frame, from ViZDoom's free Freedoom
levels.

A clip is `OUT/{train,val}/SCENARIO-SEED.mp4` with a `.jsonl` beside it. Line i of the `.jsonl`
names the action that was applied after frame i was seen and that leads to frame i + 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import MissingExtra, UsageError, did_you_mean
from diagd_cli.files.atomic import together, write_text
from diagd_cli.files.outputs import Named, check_outputs
from diagd_cli.progress import Progress, Silent
from diagd_cli.train.policy import OPEN, Policy, clearance
from diagd_cli.train.requests import SCENARIOS, RecordRequest

if TYPE_CHECKING:
    from vizdoom import DoomGame, GameState

TICS = 2  # game tics (1/35 s) per recorded frame
FPS = 35 / TICS
VAL_EVERY = 12  # one episode seed in this many is held out
RENDER_H, RENDER_W = 480, 640
TURN = 1.5  # degrees per tic
SPEED = 4.5  # map units per tic
THRUST = 0.03125  # speed gained per tic and unit of movement input
FRICTION = 0.90625  # speed kept per tic on the ground
INPUT_MAX = 50.0  # the engine clips movement input here

CLOSE_SHARE = 0.12  # an episode with more frames than this right before a wall is played again
ATTEMPTS = 12


def split_of(seed: int) -> str:
    """`train` or `val` for an episode seed."""
    return "val" if seed % VAL_EVERY == VAL_EVERY - 1 else "train"


def downsample(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area mean, rounded: uint8 (H, W, 3) -> uint8 (height, width, 3), both sides divided by whole
    factors.
    """
    fy, fx = frame.shape[0] // height, frame.shape[1] // width
    wide = frame.astype(np.uint32 if fy * fx > 256 else np.uint16)
    rows = sum(wide[k::fy] for k in range(1, fy)) + wide[0::fy]
    total = sum(rows[:, k::fx] for k in range(1, fx)) + rows[:, 0::fx]
    return ((total + fy * fx // 2) // (fy * fx)).astype(np.uint8)


def movement(action: str, angle: float, velocity: tuple[float, float]) -> list[float]:
    """The engine input [turn, forward, sideways] that brings the player to the action's speed
    within a frame.

    `angle` in degrees and `velocity` (x, y) in map units per tic are the player's own. Without this
    the player would slide for a second after each action, and a frame would show actions long past.
    """
    turn = -TURN * action.endswith("left") + TURN * action.endswith("right")
    want = SPEED * action.startswith("forward") - SPEED * action.startswith("back")
    heading = np.radians(angle - turn * TICS / 2)  # positive input turns clockwise
    ahead = velocity[0] * np.cos(heading) + velocity[1] * np.sin(heading)
    aside = velocity[0] * np.sin(heading) - velocity[1] * np.cos(heading)
    kept, gain = FRICTION**TICS, THRUST * sum(FRICTION**k for k in range(1, TICS + 1))
    inputs = ((want - kept * ahead) / gain, -kept * aside / gain)
    return [turn, *(float(np.clip(round(x, 3), -INPUT_MAX, INPUT_MAX)) for x in inputs)]


def _vizdoom() -> ModuleType:
    try:
        import vizdoom
    except ImportError as error:
        raise MissingExtra("vizdoom", "world", "Recording") from error
    return vizdoom


@contextlib.contextmanager
def open_game(scenario: str) -> Iterator[DoomGame]:
    """A running headless game of a scenario, with everything but the world itself hidden."""
    vzd = _vizdoom()
    config = Path(vzd.scenarios_path) / f"{scenario}.cfg"
    if not config.is_file():
        hint = f"Use one of: {', '.join(SCENARIOS)}"
        raise UsageError(
            f"There is no scenario {scenario!r}", did_you_mean(scenario, SCENARIOS, hint)
        )
    game = vzd.DoomGame()
    game.load_config(str(config))
    game.set_window_visible(False)
    game.set_screen_resolution(vzd.ScreenResolution.RES_640X480)
    game.set_screen_format(vzd.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    for part in (
        "hud",
        "weapon",
        "crosshair",
        "messages",
        "decals",
        "particles",
        "screen_flashes",
        "effects_sprites",
    ):
        getattr(game, f"set_render_{part}")(False)
    button, variable = vzd.Button, vzd.GameVariable
    game.set_available_buttons(
        [
            button.TURN_LEFT_RIGHT_DELTA,
            button.MOVE_FORWARD_BACKWARD_DELTA,
            button.MOVE_LEFT_RIGHT_DELTA,
        ]
    )
    game.set_available_game_variables([variable.ANGLE, variable.VELOCITY_X, variable.VELOCITY_Y])
    game.set_episode_timeout(0)
    game.add_game_args("+sv_cheats 1 +movebob 0 +stillbob 0")
    with tempfile.TemporaryDirectory() as scratch:
        # The engine drops its settings into the working directory.
        game.set_doom_config_path(os.path.join(scratch, "vizdoom.ini"))
        home = os.getcwd()
        os.chdir(scratch)
        try:
            game.init()
        finally:
            os.chdir(home)
        try:
            yield game
        finally:
            game.close()


def _depth(state: GameState) -> np.ndarray:
    assert state.depth_buffer is not None  # `open_game` asks for it
    return state.depth_buffer


def _step(game: DoomGame, action: str) -> bool:
    """Apply an action for one frame; False when that ended the episode."""
    angle, *velocity = (
        game.get_game_variable(variable) for variable in game.get_available_game_variables()
    )
    game.make_action(movement(action, angle, (velocity[0], velocity[1])), TICS)
    return not game.is_episode_finished()


def _new_episode(game: DoomGame, seed: int, attempt: int) -> np.random.Generator:
    """Begin the episode of a seed, elsewhere in each attempt; returns what draws in it."""
    game.set_seed(seed + 1 + 100_003 * attempt)
    game.new_episode()
    return np.random.default_rng([seed, attempt])


def _settle(game: DoomGame, rng: np.random.Generator) -> bool:
    """Before the first recorded frame: turn to a random heading, then on until the view is open;
    False if none is.
    """
    game.send_game_command("god")
    random_turn, side = int(rng.integers(0, 60)), ("left", "right")[int(rng.integers(2))]
    for k in range(random_turn + 120):
        if k >= random_turn and clearance(_depth(game.get_state()))[1] >= OPEN:
            return all(_step(game, "idle") for _ in range(2))
        if not _step(game, side):
            break
    return False


def play(
    game: DoomGame, seed: int, frames: int, height: int, width: int
) -> tuple[np.ndarray, list[str]]:
    """One episode: frames uint8 (frames, height, width, 3) and the action after each of them.

    An episode is played again, elsewhere, where it starts boxed in, sees too much of walls, or ends
    early (some levels have a goal).
    """
    for attempt in range(ATTEMPTS):
        rng = _new_episode(game, seed, attempt)
        video: list[np.ndarray] = []
        actions: list[str] = []
        policy = Policy(rng)
        alive = _settle(game, rng)
        while (
            alive
            and len(video) < frames
            and (policy.close <= CLOSE_SHARE * frames or attempt == ATTEMPTS - 1)
        ):
            state = game.get_state()
            video.append(downsample(state.screen_buffer, height, width))
            actions.append(policy.next(_depth(state)))
            alive = _step(game, actions[-1])
        if len(video) == frames:
            return np.stack(video), actions
    raise RuntimeError(f"Episode {seed} failed {ATTEMPTS} times")


def follow(game: DoomGame, seed: int, actions: list[str], height: int, width: int) -> np.ndarray:
    """Frames uint8 [n, height, width, 3] of an episode in which these actions are taken, from a
    place with an open view: one more than actions, fewer where the episode ends before.
    """
    for attempt in range(ATTEMPTS):
        if _settle(game, _new_episode(game, seed, attempt)):
            break
    video = [downsample(game.get_state().screen_buffer, height, width)]
    for action in actions:
        if not _step(game, action):
            break
        video.append(downsample(game.get_state().screen_buffer, height, width))
    return np.stack(video)


def write_clip(stem: Path, video: np.ndarray, actions: list[str]) -> None:
    """Write `STEM.mp4` from frames uint8 (T, H, W, 3), and `STEM.jsonl` with their actions."""
    lines = (json.dumps({"frame": i, "action": action}) for i, action in enumerate(actions))
    with together():
        with VideoWriter(f"{stem}.mp4", video.shape[1], video.shape[2], FPS, crf=8) as writer:
            writer.write(video)
        write_text(f"{stem}.jsonl", "".join(f"{line}\n" for line in lines))


def record(request: RecordRequest, progress: Progress = Silent()) -> None:
    """Record clips and their actions into request.out: see `RecordRequest`.

    Raises MissingExtra without ViZDoom, and UsageError for a scenario or a size that there is not.
    """
    height, width = request.height, request.width
    if RENDER_H % height or RENDER_W % width:
        hint = f"Use whole fractions of {RENDER_H}x{RENDER_W}"
        raise UsageError(f"{height}x{width} frames cannot be made", hint)
    episodes = episodes_of(request)
    stems = [request.out / split_of(seed) / f"{name}-{seed:05d}" for name, seed in episodes]
    check_outputs(_files(stems), instead="Choose another folder with --out")
    with contextlib.ExitStack() as stack:
        names = dict.fromkeys(request.scenarios)
        games = {name: stack.enter_context(open_game(name)) for name in names}
        bar = stack.enter_context(progress.bar("recording", len(episodes), "clips"))
        for done, ((name, seed), stem) in enumerate(zip(episodes, stems, strict=True), start=1):
            write_clip(stem, *play(games[name], seed, request.frames, height, width))
            bar.update(done)


def episodes_of(request: RecordRequest) -> list[tuple[str, int]]:
    """Scenario and seed of each episode: the scenarios take turns at each seed."""
    scenarios = request.scenarios
    return [
        (scenarios[n % len(scenarios)], request.seed + n // len(scenarios))
        for n in range(request.episodes)
    ]


def _files(stems: list[Path]) -> list[Named]:
    once = dict.fromkeys(stems)
    return [(Path(f"{stem}{suffix}"), "a clip") for stem in once for suffix in (".mp4", ".jsonl")]
