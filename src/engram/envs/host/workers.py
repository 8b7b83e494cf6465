"""Environments in processes of their own, through gymnasium.vector.AsyncVectorEnv.

Workers are fresh processes (`spawn`). A fork of a process with JAX's threads may hang for ever, and a fork server would
die of a SIGTERM that the workers survive. Makers, actions, states and answers go over Gymnasium's own pipes.

No call waits for ever. A worker that dies or answers too late is named in an EnvironmentFault, and the others are
ended. SIGINT and SIGTERM leave workers running, so that the main process can still save. The main process ends them
by SIGKILL: at `close`, after a fault, when AsyncEnvs is dropped, and at exit. If the main process is killed, the pipes
close and workers end at their next read.
"""

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, NoReturn

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from jaxtyping import PyTree

import engram.errors
from engram.envs.host import capture as capturing
from engram.envs.host.actions import Table, sizes_of
from engram.envs.host.batch import HostStep, check_alike, join_snapshots, split_snapshots, stack, weakest
from engram.envs.host.build import EpisodesMaker
from engram.envs.host.episodes import CUT, NUMBERS, Episodes, Level, WorkerEnvironment
from engram.envs.host.looking import Looked, LookingEnvironment
from engram.envs.host.spaces import Observer, Translator
from engram.errors import EngramError, EnvironmentFault, SpecError, told
from engram.goals import GoalRule

_PATIENCE = 5.0  # seconds for a process to be seen dead, or to close its environment
_REPLAY_BATCH = 1000  # actions replayed at a restore within one worker_timeout


class AsyncEnvs:
    """One process for each environment; the slowest decides how long a step takes."""

    def __init__(
        self,
        makers: list[EpisodesMaker],
        observer: Observer,
        table: Table,
        description: str,
        worker_timeout: float,
        reward_clip: float = 0.0,
        notes: Iterable[str] = (),
        goal_rule: GoalRule | None = None,
    ):
        self._observer = observer
        self.translator = Translator(observer, table)
        self._shapes = [((len(makers), *part.shape), part.dtype) for part in observer.parts]
        self._seed = makers[0].seed
        self._timeout = worker_timeout
        self.observation_space = observer.space
        self.actions = actions = len(table)
        self.action_sizes, self.goal_rule = sizes_of(table), goal_rule
        self.envs = len(makers)
        self.description = description
        self.notes = list(notes)
        self.reward_clip = reward_clip
        self.anew = np.zeros(self.envs, np.bool_)
        self._episode = np.full(self.envs, -1)  # as last reported, for a capture after a fault
        self._fault = ""
        self._vector = _start([partial(WorkerEnvironment, maker, observer.source, actions) for maker in makers])
        # Before multiprocessing's own end, which would ask workers by SIGTERM to end and wait for ever.
        Finalize(self, _end_workers, (self._vector,), exitpriority=0)
        built = self._call("build")
        for index, answer in enumerate(built):
            try:
                check_alike(index, (answer["signature"], answer["actions"]), (observer.signature(), actions))
            except EnvironmentFault:
                self._end()
                raise
        self.level: Level = weakest([answer["level"] for answer in built])

    def accept_missing(self) -> None:
        """See HostEnvs."""
        self._observer.accept_missing(True)
        self._call("apply", Episodes.accept_missing, [None] * self.envs)

    def reset(self) -> PyTree:
        """See HostEnvs."""
        self._open()
        observation, infos = self._waited(
            partial(self._vector.reset_async, options={"episode": 0}), self._vector.reset_wait, self._timeout, "reset"
        )
        self._check_infos(infos)
        self._episode[:] = 0
        return observation

    def step(self, actions: np.ndarray) -> HostStep:
        """See HostEnvs."""
        self._open()
        observation, reward, terminated, truncated, infos = self._waited(
            partial(self._vector.step_async, np.asarray(actions)), self._vector.step_wait, self._timeout, "step"
        )
        self._check_infos(infos)
        done = terminated | truncated
        self._episode += done
        final = self._finals(observation, infos["final_obs"], done) if done.any() else observation
        return HostStep(
            observation, reward.astype(np.float32), terminated, done, final, _numbers(infos), cut=_cut(infos)
        )

    def capture(self) -> capturing.Snapshot:
        """See HostEnvs."""
        if not self._fault:
            try:
                captured = self._answers("apply", capturing.capture, [None] * self.envs)
            except EnvironmentFault:  # a worker is gone: what can be saved is saved, and the next step says why
                if not self._fault:
                    raise
            else:
                return join_snapshots(self._checked(captured), self._seed)
        return join_snapshots([capturing.at_boundary(int(episode)) for episode in self._episode], self._seed)

    def restore(self, meta: dict[str, Any], arrays: dict[str, np.ndarray], new_episodes: bool = False) -> PyTree:
        """See HostEnvs. Each 1,000 actions to replay lengthen the time a worker has to answer by `worker_timeout`."""
        captured = split_snapshots(meta, arrays, self.envs, self._seed)
        longest = max((array.size for name, array in arrays.items() if name.endswith(".actions")), default=0)
        timeout = self._timeout * (1 + longest // _REPLAY_BATCH)
        take_up = partial(capturing.restore, new_episodes=new_episodes)
        restored = self._call("apply", take_up, captured, timeout=timeout)
        self.anew = np.array([anew for _, anew in restored], np.bool_)
        self._episode[:] = [state["episode"] for state, _ in captured]
        self._episode += self.anew
        return stack([rows for rows, _ in restored], self._shapes, self._observer.tree)

    def close(self) -> None:
        """See HostEnvs. Workers are asked to close their environments, then ended."""
        self._fault = ""
        if not self._vector.closed:
            _close_workers(self._vector)

    def leave(self) -> None:
        """See HostEnvs; workers are always this batch's own."""
        self.close()

    def _call(self, name: str, *arguments: Any, timeout: float | None = None) -> list[Any]:
        return self._checked(self._answers(name, *arguments, timeout=timeout))

    def _answers(self, name: str, *arguments: Any, timeout: float | None = None) -> list[Any]:
        self._open()
        send = partial(self._vector.call_async, name, *arguments)
        return list(self._waited(send, self._vector.call_wait, timeout or self._timeout, name))

    def _checked(self, answers: list[Any]) -> list[Any]:
        for index, answer in enumerate(answers):
            if isinstance(answer, dict) and "fault" in answer:
                self._raise_fault(index, answer)
        return answers

    def _waited(self, send: Callable[[], None], wait: Callable[..., Any], timeout: float, doing: str) -> Any:
        """Sends a request and waits for all answers; a worker that gives none ends the batch, with its index named."""
        try:
            send()
            return wait(timeout)
        except (multiprocessing.TimeoutError, EOFError, OSError) as error:
            problem = _unanswered(self._vector, error, timeout, doing)
        self._end()
        self._fault = (
            f"{problem}; the other workers were ended: mend the environment or raise worker_timeout "
            f"(--worker-timeout), and resume"
        )
        raise EnvironmentFault(self._fault)

    def _check_infos(self, infos: dict[str, Any]) -> None:
        if "fault" in infos:
            index = int(np.flatnonzero(infos["_fault"])[0])
            self._raise_fault(index, {field: infos[field][index] for field in ("fault", "kind", "trace")})

    def _raise_fault(self, index: int, fault: dict[str, str]) -> NoReturn:
        """Ends the workers and raises a worker's error, with its traceback as a note."""
        self._end()
        error = _error_of(index, fault)
        self._fault = str(error)
        raise error

    def _finals(self, observation: PyTree, ended: Any, done: np.ndarray) -> PyTree:
        columns = [column.copy() for column in self._observer.flat(observation)]
        for index in np.flatnonzero(done):
            for column, array in zip(columns, self._observer.flat(ended[index]), strict=True):
                column[index] = array
        return self._observer.tree(columns)

    def _open(self) -> None:
        if self._vector.closed:
            why = f"after a fault ({self._fault})" if self._fault else "by close()"
            raise EnvironmentFault(f"the environments are closed, {why}; make them again and resume")

    def _end(self) -> None:
        _end_workers(self._vector)


def _numbers(infos: dict[str, Any]) -> dict[int, dict[str, float]]:
    """The numbers that environments told at the end of an episode, by their index."""
    told = infos.get("final_info", {}).get(NUMBERS, ())
    return {index: json.loads(text) for index, text in enumerate(told) if text}


def _cut(infos: dict[str, Any]) -> tuple[int, ...]:
    """The indices of environments whose limit alone ended an episode."""
    told = infos.get("final_info", {}).get(CUT)
    return () if told is None else tuple(np.flatnonzero(told).tolist())


def looked_at(maker: EpisodesMaker, timeout: float) -> Looked:
    """What the environment of `maker` is, found out in a process of its own that ends before this returns.

    Raises: what went wrong in making it, as in this process; EnvironmentFault where no answer comes in `timeout` s.
    """
    vector = _start([partial(LookingEnvironment, maker)])
    try:
        vector.call_async("look")
        (answer,) = vector.call_wait(timeout)
    except (multiprocessing.TimeoutError, EOFError, OSError) as error:
        problem = _unanswered(vector, error, timeout, "look at its spaces")
        _end_workers(vector)
        raise EnvironmentFault(
            f"{problem}; mend the environment or raise worker_timeout (--worker-timeout), and start again"
        ) from error
    _close_workers(vector)
    if isinstance(answer, dict):
        raise _error_of(None, answer)
    return answer


def _error_of(index: int | None, fault: dict[str, str]) -> EngramError:
    """A worker's error, with its traceback as a note. `index`: of the environment, where its text lacks it."""
    kind = getattr(engram.errors, fault["kind"], None)
    known = kind if isinstance(kind, type) and issubclass(kind, EngramError) else EnvironmentFault
    text = fault["fault"]
    error = known(text if index is None or text.startswith("environment ") else f"environment {index}: {text}")
    error.add_note("in the worker:\n" + fault["trace"])
    return error


def _unanswered(vector: AsyncVectorEnv, error: BaseException, timeout: float, doing: str) -> str:
    """Which worker gave no answer, and whether it is late or dead."""
    if isinstance(error, multiprocessing.TimeoutError):
        pipes = vector.parent_pipes
        late = [index for index, pipe in enumerate(pipes) if pipe is None or not pipe.poll(0)]
        return f"{_named(late)} did not answer within {timeout:g} s (call: {doing})"
    return f"{_named(_dead(vector.processes))} died (call: {doing}; {_exit_codes(vector.processes)})"


def _close_workers(vector: AsyncVectorEnv) -> None:
    """Asks workers to close their environments, waits a little, and ends them."""
    try:
        for pipe in vector.parent_pipes:
            pipe.send(("close", None))
        deadline = time.monotonic() + _PATIENCE
        for process in vector.processes:
            process.join(max(deadline - time.monotonic(), 0))
    except OSError:
        pass  # a worker that is gone already needs no closing
    _end_workers(vector)


def _start(makers: list[Callable[[], Any]]) -> AsyncVectorEnv:
    # Two steps instead of a call: if starting fails half-way, the processes already started are still at hand.
    vector = AsyncVectorEnv.__new__(AsyncVectorEnv)
    vector.processes, vector.parent_pipes = [], []
    try:
        with _born_deaf():
            vector.__init__(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    except (EOFError, OSError) as error:
        dead = _dead(vector.processes)
        _end_workers(vector)
        raise EnvironmentFault(
            f"{_named(dead)} died while starting; a script must be a file with `if __name__ == '__main__':`, "
            f"and keep the environment's class and all it uses importable"
        ) from error
    except Exception as error:
        _end_workers(vector)
        raise SpecError(
            f"the environment cannot be sent to worker processes ({told(error)}); "
            f"give an id or a function that makes everything it needs, or leave out asynchronous"
        ) from error
    return vector


@contextmanager
def _born_deaf() -> Iterator[None]:
    """Processes started inside inherit that SIGINT and SIGTERM are blocked, until they have handlers of their own.

    Only the calling thread's mask changes: a signal that comes meanwhile reaches this process right afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it inside would unblock both signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers(vector: AsyncVectorEnv) -> None:
    """Ends the processes of this batch and no others; Gymnasium's own close would first wait for their answers."""
    started = [process for process in vector.processes if process.pid is not None]
    for process in started:
        process.kill()
    for process in started:
        process.join(_PATIENCE)
    for pipe in vector.parent_pipes:
        if pipe is not None:
            pipe.close()
    vector.closed = True


def _dead(processes: list[Any]) -> list[int]:
    """Indices of ended processes. A pipe may break a moment before its process is seen dead."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        dead = [index for index, process in enumerate(processes) if process.exitcode is not None]
        if dead:
            return dead
        time.sleep(0.01)
    return []


def _exit_codes(processes: list[Any]) -> str:
    codes = [str(process.exitcode) for process in processes if process.exitcode is not None]
    return f"exit code {', '.join(codes)}" if codes else "its pipe is closed"


def _named(indices: list[int]) -> str:
    if len(indices) == 1:
        return f"environment {indices[0]}'s worker"
    return f"the workers of environments {', '.join(map(str, indices))}" if indices else "a worker"
