"""The sentences of README.md and docs/ that state results, and the values of results/reference that they state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from experiments.reports import loads, steadiness
from experiments.spec import sweep
from experiments.store import intervals, loaded
from experiments.store.samples import cell_of
from tools.docs_sources import LOCAL, beside, crossing, each, echo, ladder, of, rows, rung, step

X, OUTSIDE, MB, THROUGHPUT = "ratio_to_local", "outside_seconds", "payload_bytes", "throughput_to_local"
Sentence = tuple[str, Sequence[float]]
"""A text with `{}` for each figure, and the values of the figures in their order."""


def _ends(values: Iterable[float], factor: float = 1) -> tuple[float, float]:
    found = [factor * value for value in values]
    return min(found), max(found)


def _readme() -> list[Sentence]:
    eager = each("tuned-submodel", X, "rpyc", "rpyc-tuned", "grpc", engine="eager")
    slower = of("tuned-submodel", "mean", LOCAL, engine="eager") / of(
        "tuned-submodel", "mean", LOCAL, engine="frozen", batch=1
    )
    return [
        ("With eager Keras the model itself takes {} times as long", [slower]),
        ("the same transports cost {} to {} times local", _ends(eager)),
    ]


def _results() -> list[Sentence]:
    return [*_seed(), *_tuned(), *_rivals(), *_ladders(), *_wire(), *_flows(), *_serving(), *_pipelines(), *_sizes()]


def _seed() -> list[Sentence]:
    dealt, near = ({"placement": name} for name in ("block-cyclic", "contiguous"))
    local, rpyc = of("seed-layer", "mean", LOCAL), of("seed-layer", "mean", "rpyc", **dealt)
    outside = of("seed-submodel", OUTSIDE, "grpc")
    grpc = of("seed-layer", X, "grpc", **near)
    return [
        ("contiguous layers send {} messages", [of("seed-layer", "messages", "grpc", **near)]),
        ("then cost {} (gRPC) and {} (RPyC) times local", [grpc, of("seed-layer", X, "rpyc", **near)]),
        ("RPyC adds {} s here", [rpyc - local]),
        ("{} ms outside the stages here, which is {} times that local", [1e3 * outside, outside / 0.52443]),
        (
            "gRPC falls from {} to {} times local. Contiguous stages alone bring it to {} ({} messages instead of {})",
            [
                *(of("seed-layer", X, "grpc", **dealt), of("tuned-layer", X, "grpc"), grpc),
                *(of("seed-layer", "messages", "grpc", **where) for where in (near, dealt)),
            ],
        ),
    ]


def _tuned() -> list[Sentence]:
    eager = each("tuned-submodel", X, "rpyc", "rpyc-tuned", "grpc", engine="eager")
    frozen = [of("tuned-submodel", X, name, engine="frozen", batch=1) for name in ("rpyc-tuned", "grpc", "rpyc")]
    return [
        ("distribution looks cheap: {} to {} times local", _ends(eager)),
        ("cost {} (RPyC tuned) to {} (gRPC) times local at batch 1, and RPyC's defaults {}", frozen),
    ]


def _rivals() -> list[Sentence]:
    unix, ray, tensorflow, plain = (of("rivals", X, name) for name in ("unix", "ray-graph", "tf-runtime", "sockets"))
    awake, ray_awake = (of("rivals-poll", X, name) for name in ("unix", "ray-graph"))
    return [
        ("are Unix sockets and TCP: {} times local, and {} times Ray's compiled graph", [unix, unix / ray]),
        ("Unix sockets take {} times local, and {} times Ray's compiled graph. Hours", [awake, awake / ray_awake]),
        ("which is no Python, takes {} times local", [tensorflow]),
        ("that a user would write by hand: {} times local", [plain]),
    ]


def _ladders() -> list[Sentence]:
    grpc, plain = ("grpc", "grpc-tuned"), ("tcp", "unix")
    share = {name: 100 * one.pieces["not explained"] / one.seconds for name, one in ladder("ladder").items()}
    hop = ladder("hop")
    return [
        ("**Processes** cost {} to {} ms", _ends(step("ladder", "processes", *grpc, *plain))),
        ("(*Plain sockets*: {} times local)", [of("ladder", X, "sockets")]),
        ("without a wire add {} to {} ms to the stages in a row", _ends(step("ladder", "nodes", *grpc, *plain))),
        ("This project adds {} to {} ms to the library", _ends(step("ladder", "transport", *grpc))),
        ("and {} ms to plain sockets", [max(step("ladder", "transport", *plain))]),
        ("adds {} ms over `tcp` and `unix`", [max(step("ladder", "chain", *plain))]),
        ("and {} to {} ms over gRPC, whose threads", _ends(step("ladder", "chain", *grpc))),
        ("Not explained are at most {} % of a request", [max(map(abs, share.values()))]),
        ("without a wire spend {} ms outside the stages, for five hops", [1e3 * of("hop", OUTSIDE, "none")]),
        ("takes {} (gRPC tuned) to {} times (Unix sockets)", _ends(one.beside_library for one in hop.values())),
        ("take {} times as long as the echoes of their bytes", [rung("hop", "empty chain") / rung("hop", "sockets")]),
    ]


def _wire() -> list[Sentence]:
    def beyond(transport: str, codec: str) -> float:
        return of("wire", "wire_bytes", transport, codec=codec) / of("wire", MB, transport, codec=codec)

    outside = {name: 1e3 * of("wire", OUTSIDE, *name.split()[:1], codec=name.split()[1]) for name in WIRED}
    return [
        ("gRPC and RPyC tuned add {} % to", [100 * (beyond("grpc", "raw") - 1)]),
        ("add {} % to the tensors' bytes", [100 * (beyond("rpyc-tuned", "raw") - 1)]),
        ("JSON takes {} times the bytes", [beyond("rest", "json")]),
        ("RPyC tuned takes {} ms and gRPC", [outside["rpyc-tuned raw"]]),
        ("and gRPC {} to {} ms, with either codec", _ends((outside["grpc raw"], outside["grpc tensorproto"]))),
        ("REST with base64 takes {} ms", [outside["rest json-b64"]]),
        ("decimal numbers is what costs ({} ms)", [outside["rest json"]]),
    ]


WIRED = ("rpyc-tuned raw", "grpc raw", "grpc tensorproto", "rest json", "rest json-b64")


def _flows() -> list[Sentence]:
    sent = {flow: of("flows", MB, "grpc", flow=flow) / 1e6 for flow in ("nested", "hub", "forward")}
    times = [of("flows", X, "grpc", flow=flow) for flow in ("nested", "hub", "forward")]
    return [
        ("to the client and back: {} MB a request", [sent["hub"]]),
        ("more than the {} MB of `nested`", [sent["nested"]]),
        ("the fewest bytes ({} MB)", [sent["forward"]]),
        ("over gRPC {} (nested), {} (hub) and {} (forward) times local", times),
        ("so the input ({} MB)", [crossing("flows")[""] / 1e6]),
    ]


def _serving() -> list[Sentence]:
    def beside(engine: str) -> list[float]:
        return [
            of("serving", "mean", "grpc", engine=engine, flow=flow)
            / of("serving", "mean", "grpc", engine="graph", flow=flow)
            for flow in ("nested", "forward")
        ]

    return [
        ("costs {} times plain gRPC on the same plan", [max(beside("tfserving"))]),
        ("REST with JSON costs {} times", [max(beside("tfserving-rest"))]),
    ]


def _pipelines() -> list[Sentence]:
    def gain(folder: str, *transports: str) -> list[float]:
        return each(folder, THROUGHPUT, *transports, concurrency=4)

    floors = gain("pipeline-light", "tcp", "shm")
    return [
        ("Two cores in a row give {} to {} times the throughput", _ends(gain("pipeline", "rpyc-tuned", "grpc"))),
        ("local instead of {})", [of("pipeline", "mean", LOCAL)]),
        ("The light model gains {} to {} over gRPC", _ends(gain("pipeline-light", "grpc"))),
        ("{} to {} over RPyC tuned, and", _ends(gain("pipeline-light", "rpyc-tuned"))),
        ("and {} to {} over TCP and shared memory", _ends(floors)),
        ("It moves {} MB per", [of("pipeline-light", MB, "tcp", flow="forward", concurrency=4) / 1e6]),
        ("MB per {} ms of one core", [1e3 * of("pipeline-light", "mean", LOCAL)]),
    ]


def _sizes() -> list[Sentence]:
    ways = ("shm", "unix", "tcp", "grpc-tuned", "grpc unary")
    times, small = [echo("sizes", way, 32) for way in ways], 0.0001

    def own(way: str) -> list[float]:
        return beside(way, f"bare-{way}")

    return [
        ("RPyC and RPyC tuned take {} to {} times as long as", _ends([*own("rpyc"), *own("rpyc-tuned")])),
        (
            "takes {} to {} times as long.",
            _ends([*beside("grpc unary", "bare-grpc-stub"), *beside("grpc-tuned", "bare-grpc")]),
        ),
        ("That costs {} ms there and back", [echo("sizes-bare", "tcp", small) - echo("sizes-bare", "bare-tcp", small)]),
        ("so an echo over TCP takes {} times as long", own("tcp")[:1]),
        ("8 MB take {} times as long over this project's Unix sockets", [own("unix")[-1]]),
        ("RPyC's defaults** take {} ms for a megabyte", [echo("sizes", "rpyc", 1)]),
        ("carries 32 MB in {} ms, Unix sockets in {} ms, TCP in {} ms; gRPC takes {} (tuned) to {} ms", times),
    ]


def _where() -> list[Sentence]:
    sent = {name: size / 1e3 for name, size in crossing("edge-cloud").items()}
    stages = [sent[f"expanded_conv_{number}_expand"] for number in (4, 7, 11, 13)]
    edge = min(each("edge-cloud", "mean", *CARRIED, on="edge"))
    far = [
        mean
        for rate in ("5Mbit", "50Mbit", "1Gbit")
        for mean in each("edge-cloud", "mean", *CARRIED, link=f"edge<->cloud rtt:200ms,bandwidth:{rate}")
    ]
    slow = {"on": "cloud", "link": "edge<->cloud rtt:1ms,bandwidth:5Mbit"}
    photograph = [1e3 * of("edge-cloud", "mean", name, **slow) for name in ("rpyc", "tcp")]
    slowest = of("edge-cloud", "mean", "rpyc", on="cloud", link="edge<->cloud rtt:200ms,bandwidth:5Mbit")
    spreads, defaults = _by_transport()
    return [
        ("sends {} kB, those before `_7_expand`, `_11_expand` and `_13_expand` {}, {} and {} kB", stages),
        ("the one before `conv_2` sends {} kB; the photograph is {} kB", [sent["conv_2"], sent[""]]),
        ("takes at least {} times as long as the device alone ({} ms)", [min(far) / edge, 1e3 * edge]),
        ("The row of `_11_expand` ({} kB)", [stages[2]]),
        ("than the earlier `_7_expand` ({} kB)", [stages[1]]),
        ("over 5 Mbit/s in {} ms instead of {}", photograph),
        ("gRPC differ by {} ms at most, and by {} ms in the median", [max(spreads), median(spreads)]),
        ("the cuts by up to a factor of {}", [slowest / edge]),
        ("RPyC's defaults cost up to {} ms more than the slowest of them", [max(defaults)]),
    ]


def _by_transport() -> tuple[list[float], list[float]]:
    """For each cut and link, in milliseconds: the spread of TCP, gRPC and RPyC tuned, and the extra time of RPyC with
    its defaults."""
    means: dict[object, dict[str, float]] = {}
    for row in rows("edge-cloud"):
        if row["transport"] != "none":
            place = replace(cell_of(row), transport="none")
            means.setdefault(place, {})[row["transport"]] = 1e3 * row["mean"]
    found = [([each[name] for name in CARRIED if name != "rpyc"], each["rpyc"]) for each in means.values()]
    return [max(others) - min(others) for others, _ in found], [rpyc - max(others) for others, rpyc in found]


CARRIED = ("tcp", "grpc", "rpyc", "rpyc-tuned")


def _methodology() -> list[Sentence]:
    return [
        ("takes at least {} times as long as the first third", [loaded.GROWN]),
        ("less than {} % of the offered rate", [100 * loaded.SERVED]),
        ("with a warning above {} %", [100 * steadiness.DRIFT]),
        ("by Holm's method, is below {}:", [1 - intervals.LEVEL]),
    ]


def _running() -> list[Sentence]:
    rates = f"{', '.join('{}' for _ in sweep.FRACTIONS[:-1])} and {{}}"
    return [
        ("with a warning above {} ms", [1e3 * loads.LATE]),
        (f"Cells at {rates} of the capacity", sweep.FRACTIONS),
        ("together take about {} times the time", [sum(1 / fraction for fraction in sweep.FRACTIONS)]),
        ("answers at least {} % of what is offered", [100 * loaded.SERVED]),
    ]


DERIVED: Mapping[str, Callable[[], list[Sentence]]] = {
    "README.md": _readme,
    "results.md": _results,
    "where-to-cut.md": _where,
    "methodology.md": _methodology,
    "running.md": _running,
}
"""Name of a page -> its sentences with derived figures."""
