"""Headless recording of first-person clips with one action per frame, from ViZDoom's free Freedoom levels.

A clip is `OUT/{train,val}/SCENARIO-SEED.mp4` with a `.jsonl` beside it. Line i of the `.jsonl` names the action
that was applied after frame i was seen and that leads to frame i + 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import MissingExtra, UsageError, did_you_mean
from diagd_cli.files.atomic import together, write_text
from diagd_cli.files.outputs import check_outputs

SCENARIOS = ("my_way_home", "health_gathering_supreme")

TICS = 2  # game tics (1/35 s) per recorded frame
FPS = 35 / TICS
VAL_EVERY = 12  # one episode seed in this many is held out
RENDER_H, RENDER_W = 480, 640
TURN = 1.5  # degrees per tic
SPEED = 4.5  # map units per tic
THRUST = 0.03125  # speed gained per tic and unit of movement input
FRICTION = 0.90625  # speed kept per tic on the ground
INPUT_MAX = 50.0  # the engine clips movement input here

# Depth buffer values: about 7 map units per step.
NEAR, OPEN, ROOMY, CLOSE = 10, 24, 13, 5
CLOSE_SHARE = 0.12  # an episode with more frames than this right before a wall is played again
ATTEMPTS = 12


def split_of(seed: int) -> str:
    """`train` or `val` for an episode seed."""
    return "val" if seed % VAL_EVERY == VAL_EVERY - 1 else "train"


def downsample(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area mean, rounded: uint8 (H, W, 3) -> uint8 (height, width, 3), both sides divided by whole factors."""
    fy, fx = frame.shape[0] // height, frame.shape[1] // width
    wide = frame.astype(np.uint32 if fy * fx > 256 else np.uint16)
    rows = sum(wide[k::fy] for k in range(1, fy)) + wide[0::fy]
    total = sum(rows[:, k::fx] for k in range(1, fx)) + rows[:, 0::fx]
    return ((total + fy * fx // 2) // (fy * fx)).astype(np.uint8)


def clearance(depth: np.ndarray) -> tuple[float, float, float]:
    """How open the view is (left, centre, right), in depth steps, from a depth buffer uint8 (H, W)."""
    h, w = depth.shape
    band = depth[int(h * 0.44) : int(h * 0.54) : 4, ::4]
    left, centre, right = (band[:, int(w / 4 * a) : int(w / 4 * b)] for a, b in ((0, 0.33), (0.36, 0.64), (0.67, 1)))
    return float(left.mean()), float(np.percentile(centre, 20)), float(right.mean())


@dataclass
class Policy:
    """Wanders gently: holds one action for a while, keeps turning one way, and turns away from walls."""

    rng: np.random.Generator
    action: str = "idle"
    left: int = 0  # frames that the current action is still held
    side: str = "left"
    escaping: bool = False
    close: int = 0  # frames so far with a wall right ahead
    turned: int = 0  # frames of turning since the escape began
    fresh: bool = False  # an escape has just found an open view

    def next(self, depth: np.ndarray) -> str:
        """The action to apply now, given the depth buffer uint8 (H, W) of the current frame."""
        view = clearance(depth)
        self.close += view[1] < CLOSE
        if self.escaping and self.action == self.side:
            self.turned += 1
            if view[1] >= max(ROOMY, OPEN - self.turned / 3):
                # Where the view has just become open its edge is still in the way: turn past it.
                self.escaping, self.left, self.fresh = False, 3, True
        blocked = view[1] < NEAR and (self.action.startswith("forward") or self.left <= 0)
        if blocked and not self.escaping:
            self._escape(view)
        elif self.left <= 0:
            self._continue_escape() if self.escaping else self._wander(view)
        self.left -= 1
        return self.action

    def _hold(self, action: str, low: int, high: int) -> None:
        self.action, self.left = action, int(self.rng.integers(low, high + 1))

    def _escape(self, view: tuple[float, float, float]) -> None:
        """Begin to leave a wall, towards the more open side unless a turn is already under way."""
        if not self.action.endswith(("left", "right")) or abs(view[0] - view[2]) > OPEN:
            self.side = "left" if view[0] > view[2] else "right"
        self.escaping, self.turned = True, 0
        kind = self.rng.random()
        if kind < 0.3:
            self._hold("back", 4, 8)
        elif kind < 0.6:
            self._hold(f"back+{self.side}", 5, 10)
        else:
            self._continue_escape()

    def _continue_escape(self) -> None:
        """Turn until the view is open; after a full circle without one, give up and wander."""
        if self.action == self.side and self.turned >= 120:
            self.escaping = False
        self._hold(self.side, 120, 120)

    def _wander(self, view: tuple[float, float, float]) -> None:
        """Pick the next action to hold; the turning side changes seldom, and towards the open side."""
        if self.rng.random() < 0.45:
            towards_left = view[0] / max(view[0] + view[2], 1.0)
            self.side = "left" if self.rng.random() < towards_left else "right"
        kinds = {"idle": 0.18, "forward": 0.30, "turn": 0.03, "forward+": 0.35, "back": 0.06, "back+": 0.08}
        kind = str(self.rng.choice(list(kinds), p=list(kinds.values())))
        if self.fresh or (kind == "idle" and self.action == "idle"):
            kind, self.fresh = str(self.rng.choice(["forward", "forward+"])), False
        action = {"turn": self.side, "forward+": f"forward+{self.side}", "back+": f"back+{self.side}"}.get(kind, kind)
        self._hold(action, *((6, 16) if kind == "forward" else (4, 12)))


def movement(action: str, angle: float, velocity: tuple[float, float]) -> list[float]:
    """The engine input [turn, forward, sideways] that brings the player to the action's speed within a frame.

    `angle` in degrees and `velocity` (x, y) in map units per tic are the player's own. Without this the player
    would slide for a second after each action, and a frame would show actions long past.
    """
    turn = -TURN * action.endswith("left") + TURN * action.endswith("right")
    want = SPEED * action.startswith("forward") - SPEED * action.startswith("back")
    heading = np.radians(angle - turn * TICS / 2)  # positive input turns clockwise
    ahead = velocity[0] * np.cos(heading) + velocity[1] * np.sin(heading)
    aside = velocity[0] * np.sin(heading) - velocity[1] * np.cos(heading)
    kept, gain = FRICTION**TICS, THRUST * sum(FRICTION**k for k in range(1, TICS + 1))
    inputs = ((want - kept * ahead) / gain, -kept * aside / gain)
    return [turn, *(float(np.clip(round(x, 3), -INPUT_MAX, INPUT_MAX)) for x in inputs)]


def _vizdoom():
    try:
        import vizdoom
    except ImportError as error:
        raise MissingExtra("vizdoom", "world", "Recording") from error
    return vizdoom


@contextlib.contextmanager
def open_game(scenario: str) -> Iterator:
    """A running headless game of a scenario, with everything but the world itself hidden."""
    vzd = _vizdoom()
    config = Path(vzd.scenarios_path) / f"{scenario}.cfg"
    if not config.is_file():
        hint = f"Use one of: {', '.join(SCENARIOS)}"
        raise UsageError(f"There is no scenario {scenario!r}", did_you_mean(scenario, SCENARIOS, hint))
    game = vzd.DoomGame()
    game.load_config(str(config))
    game.set_window_visible(False)
    game.set_screen_resolution(vzd.ScreenResolution.RES_640X480)
    game.set_screen_format(vzd.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    for part in ("hud", "weapon", "crosshair", "messages", "decals", "particles", "screen_flashes", "effects_sprites"):
        getattr(game, f"set_render_{part}")(False)
    button, variable = vzd.Button, vzd.GameVariable
    game.set_available_buttons(
        [button.TURN_LEFT_RIGHT_DELTA, button.MOVE_FORWARD_BACKWARD_DELTA, button.MOVE_LEFT_RIGHT_DELTA]
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


def _step(game, action: str) -> bool:
    """Apply an action for one frame; False when that ended the episode."""
    angle, *velocity = (game.get_game_variable(variable) for variable in game.get_available_game_variables())
    game.make_action(movement(action, angle, tuple(velocity)), TICS)
    return not game.is_episode_finished()


def _settle(game, rng: np.random.Generator) -> bool:
    """Before the first recorded frame: turn to a random heading, then on until the view is open; False if none is."""
    game.send_game_command("god")
    random_turn, side = int(rng.integers(0, 60)), ("left", "right")[int(rng.integers(2))]
    for k in range(random_turn + 120):
        if k >= random_turn and clearance(game.get_state().depth_buffer)[1] >= OPEN:
            return all(_step(game, "idle") for _ in range(2))
        if not _step(game, side):
            break
    return False


def play(game, seed: int, frames: int, height: int, width: int) -> tuple[np.ndarray, list[str]]:
    """One episode: frames uint8 (frames, height, width, 3) and the action after each of them.

    An episode is played again, elsewhere, where it starts boxed in, sees too much of walls, or ends early (some
    levels have a goal).
    """
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        game.set_seed(seed + 1 + 100_003 * attempt)
        game.new_episode()
        video, actions, policy = [], [], Policy(rng)
        alive = _settle(game, rng)
        while alive and len(video) < frames and (policy.close <= CLOSE_SHARE * frames or attempt == ATTEMPTS - 1):
            state = game.get_state()
            video.append(downsample(state.screen_buffer, height, width))
            actions.append(policy.next(state.depth_buffer))
            alive = _step(game, actions[-1])
        if len(video) == frames:
            return np.stack(video), actions
    raise RuntimeError(f"Episode {seed} failed {ATTEMPTS} times")


def write_clip(stem: Path, video: np.ndarray, actions: list[str]) -> None:
    """Write `STEM.mp4` from frames uint8 (T, H, W, 3), and `STEM.jsonl` with their actions."""
    lines = (json.dumps({"frame": i, "action": action}) for i, action in enumerate(actions))
    with together():
        with VideoWriter(f"{stem}.mp4", *video.shape[1:3], FPS, crf=8) as writer:
            writer.write(video)
        write_text(f"{stem}.jsonl", "".join(f"{line}\n" for line in lines))


def _plan(scenarios: list[str], episodes: int, seed: int) -> list[tuple[str, int]]:
    """Scenario and seed of each episode."""
    return [(scenarios[n % len(scenarios)], seed + n // len(scenarios)) for n in range(episodes)]


def record(
    out: Path,
    scenarios: list[str],
    episodes: int,
    frames: int,
    seed: int,
    height: int = 120,
    width: int = 160,
    on_episode: Callable[[int, int], None] | None = None,
) -> None:
    """Record `episodes` clips of `frames` frames, going round the scenarios; `on_episode(done, episodes)` follows each.

    Episode e has the seed `seed + e // len(scenarios)`, which alone decides its content and its split.
    """
    if RENDER_H % height or RENDER_W % width:
        raise UsageError(f"{height}x{width} frames cannot be made", f"Use whole fractions of {RENDER_H}x{RENDER_W}")
    stems = [Path(out) / split_of(own) / f"{name}-{own:05d}" for name, own in _plan(scenarios, episodes, seed)]
    files = [(Path(f"{stem}{suffix}"), "a clip") for stem in dict.fromkeys(stems) for suffix in (".mp4", ".jsonl")]
    check_outputs(files, instead="Choose another folder with --out")
    with contextlib.ExitStack() as stack:
        games = {name: stack.enter_context(open_game(name)) for name in dict.fromkeys(scenarios)}
        for episode, (name, episode_seed) in enumerate(_plan(scenarios, episodes, seed)):
            video, actions = play(games[name], episode_seed, frames, height, width)
            write_clip(Path(out) / split_of(episode_seed) / f"{name}-{episode_seed:05d}", video, actions)
            if on_episode:
                on_episode(episode + 1, episodes)
