"""The cost model of a question: a profile, and the hosts and links of the question.

Hosts, links and transports that the profile lacks are refused, with a remedy; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File

from cluster import facts, hosts
from cluster.hosts import CLIENT, HERE, Host
from cluster.resource_limits import period_of
from experiments.advise.__main__ import AdviseOptions
from experiments.spec import machines as spec
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.paths import portable
from experiments.store import profile as store
from experiments.store.profile import HINT, Profile
from partitioning.cost_model import CostModel
from partitioning.errors import suggest
from partitioning.part_costs import Device, Path
from transports.errors import UsageError

SAME = ("python", "tensorflow", "keras", "splitbench")
"""Programs whose versions must equal those of the profile; of Python's version only the first two numbers."""


@dataclass(frozen=True)
class Asked:
    """A question's hosts and links."""

    experiment: Experiment
    """The experiment of the profile, with the hosts of the question."""
    link: str = ""
    memory: Mapping[str, int] | None = None
    think: float = 0.0
    """Seconds between an answer and the client's next request."""

    @property
    def hosts(self) -> tuple[Host, ...]:
        return self.experiment.machines


def read(given: AdviseOptions) -> Profile:
    """The profile of a question. Raises `UsageError` if its model, engine or batch is not that of the question."""
    found = store.read(File(given.profile))
    for name, value, own in (
        ("model", given.model and portable(given.model), found.experiment.model),
        ("engine", given.engine, found.engine),
        ("batch", given.batch, found.batch),
    ):
        if value and value != own:
            raise UsageError(f"--{name} {value}: the profile {found.folder} is of {own}; {HINT}")
    if given.versions == hosts.VERSIONS[0]:
        check_machine(found)
    return found


def check_machine(profile: Profile) -> None:
    """Raise `UsageError` for a profile of other versions, or of a single machine that is not this one."""
    record, here = profile.record, {**facts.versions()}
    differing = []
    for name in SAME:
        then, now = record["versions"].get(name), here.get(name)
        if name == "python" and then and now:
            then, now = (".".join(version.split(".")[:2]) for version in (then, now))
        if then != now:
            differing.append(f"{name} {then} (here {now})")
    if not profile.experiment.several_machines:
        was, found = record["processor"], facts.processor()
        differing += [
            f"{name.replace('_', ' ')} {was[name]} (here {found[name]})" for name in found if was[name] != found[name]
        ]
    if differing:
        raise UsageError(
            f"--profile {profile.folder}: it is of another machine or version: {', '.join(differing)}; {HINT}, or use "
            "it as it is: --versions any"
        )


def asked(given: AdviseOptions, profile: Profile) -> Asked:
    """The hosts and links of a question. Raises `UsageError`."""
    machines = hosts.read(given.hosts) if given.hosts else profile.experiment.machines
    model = given.model or profile.experiment.model  # a record has no folders, and a file may be anywhere
    return Asked(
        replace(profile.experiment, machines=machines, model=model), given.link, _memory(given.memory), given.think
    )


def _memory(texts: Sequence[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, equals, size = text.partition("=")
        if not equals or not size.isdecimal():
            raise UsageError(f"--memory {text}: not HOST=BYTES; for example edge=500000000")
        found[name] = int(size)
    return found


def model_of(profile: Profile, question: Asked, names: Sequence[str] = (), servers: int = 2) -> CostModel:
    """The cost model. `names`: transports to consider; empty: all. `servers`: how many hosts to assume for a profile
    without hosts.

    Raises `UsageError` for hosts, links and transports that the profile does not know.
    """
    used = _hosts(profile, question, servers)
    runs = {host.name: profile.runs_of(_profiled(profile, host)).times(host.slowdown) for host in used}
    limits = dict(question.memory or {})
    for name in limits.keys() - runs.keys():
        raise UsageError(f"--memory {name}={limits[name]}: no host {name!r}{suggest(name, runs)}")
    grown = {row["host"]: (row["base_bytes"], row["built_bytes"]) for row in profile.hosts.to_dict("records")}
    of = {host.name: grown[_profiled(profile, host)] for host in used}
    weights = profile.weights
    return CostModel(
        traffic=profile.traffic,
        runs=runs,
        devices={host.name: _device(profile, host, limits.get(host.name, host.memory)) for host in used},
        transports={name: profile.message_cost(name) for name in _transports(profile, names)},
        paths=_paths(profile, question, used),
        client=spec.here(question.experiment),
        weights=weights,
        base={name: base for name, (base, _) in of.items()},
        think=question.think,
        growth={name: max(0.0, (built - base) / max(1, sum(weights))) for name, (base, built) in of.items()},
    )


def _transports(profile: Profile, names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in profile.transports:
            raise UsageError(
                f"--transport {name}: the profile has {', '.join(profile.transports)}; profile it: splitbench profile "
                f"--transport {','.join((*profile.transports, name))} ..."
            )
    return names or profile.transports


def _hosts(profile: Profile, question: Asked, servers: int) -> list[Host]:
    """The hosts that hold servers."""
    if not question.hosts:
        return [Host(name=f"server-{number}", servers=(number,)) for number in range(servers)]
    holding = [host for host in question.hosts if host.servers]
    return holding or list(question.hosts)


def _profiled(profile: Profile, host: Host) -> str:
    """The name that the profile has for a host. Raises `UsageError` for a host that it does not know."""
    if profile.names == (HERE.name,):
        return HERE.name
    if host.name not in profile.names:
        raise UsageError(
            f"host {host.name} is not in the profile {profile.folder}, which has {', '.join(profile.names)}"
            f"{suggest(host.name, profile.names)}; profile it: splitbench profile --hosts ... --out FOLDER"
        )
    then = next(known for known in profile.experiment.machines if known.name == host.name)
    for name in ("cores", "threads"):
        if getattr(host, name) != getattr(then, name):
            was, now = (getattr(each, name) or "none given" for each in (then, host))
            raise UsageError(f"host {host.name} had {name} {was} in the profile, and now {now}; profile it again")
    return host.name


def _device(profile: Profile, host: Host, memory: int) -> Device:
    facts_of = profile.record.get("machines", {}).get("hosts", {}).get(host.name, {})
    cores = len(host.cores) or facts_of.get("processor", profile.record["processor"])["affinity"]
    threads = host.threads or profile.experiment.threads or cores
    return Device(host.cpu, period_of(host.cpu) / 1e6, max(1.0, cores / threads), memory)


def _paths(profile: Profile, question: Asked, used: Sequence[Host]) -> dict[tuple[str, str], Path]:
    """The given links; with several machines, the links that the profile measured replace any that are not given."""
    holders = tuple(used) if not question.hosts else question.hosts
    experiment = replace(question.experiment, machines=holders)
    given = spec.links(experiment, Cell(transport=profile.transports[0], link=question.link))
    found = {ends: Path(link.delay, link.bandwidth) for ends, link in given.items()}
    if not question.experiment.several_machines:
        return found
    ways = profile.record.get("machines", {}).get("ways", {}).get("before", [])
    measured = {(way["from"], way["to"]): Path(way["rtt"] / 2, way["bandwidth"]) for way in ways}
    client = spec.here(question.experiment)
    names = [*(host.name for host in used), *([CLIENT] if client == CLIENT else [])]
    for source in names:
        for target in names:
            ends = (source, target)
            if source == target or ends in found:
                continue
            way = measured.get(ends) or measured.get(ends[::-1])
            if way is None:
                raise UsageError(
                    f"the profile has no link {source}->{target}; give it: --link '{source}<->{target} ...'"
                )
            found[ends] = way
    return found
