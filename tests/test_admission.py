"""How many sources a machine carries, and with how many workers."""

from __future__ import annotations

import pytest

from serstream.admission import MEASURED_FROM, measure, parts, plan, workers_for
from serstream.config import (
    DecisionConfig,
    FileSource,
    MicrophoneSource,
    NetworkSource,
    SourceConfig,
    SpeechConfig,
    SyntheticSource,
)
from serstream.errors import ConfigError
from serstream.hearing import Orders, Wishes
from serstream.manifest import load_model
from serstream.resources import packaged


def sources(live: int = 0, real_time: int = 0, fast: int = 0) -> dict[str, SourceConfig]:
    found: dict[str, SourceConfig] = {f"fast{i}": FileSource("a.wav", realtime=False) for i in range(fast)}
    found |= {f"played{i}": SyntheticSource() for i in range(real_time)}
    return found | {f"mic{i}": MicrophoneSource() for i in range(live)}


@pytest.mark.parametrize(
    ("share", "cores", "wanted", "kinds", "workers"),
    [
        (0.01, 4, None, (80, 0, 0), 0),  # the daemon's own process carries 80
        (0.01, 4, None, (81, 0, 0), 2),
        (0.01, 4, None, (320, 0, 0), 4),
        (0.01, 4, None, (50, 50, 0), 2),  # what is played in real time is spread
        (0.01, 4, None, (80, 900, 0), 4),  # and never refused
        (0.01, 4, None, (80, 0, 900), 0),  # what is read as fast as it can be asks for nothing
        (0.01, 1, None, (80, 900, 0), 0),  # one core is one process
        (0.9, 4, None, (0, 3, 0), 3),  # not one of them in time, and still heard
        (0.0, 1, None, (16, 0, 0), 0),  # unmeasured
        (0.01, 4, 1, (80, 0, 0), 0),
        (0.01, 4, 2, (3, 0, 0), 2),
        (0.01, 2, 8, (160, 0, 0), 8),
        (0.01, 2, 8, (0, 3, 0), 3),  # no worker without a source
        (0.0, 1, 2, (1, 0, 0), 1),
    ],
)
def test_there_are_as_many_workers_as_are_asked_for_or_else_as_are_needed(share, cores, wanted, kinds, workers):
    assert plan(sources(*kinds), share, cores=cores, wanted=wanted) == workers


@pytest.mark.parametrize(
    ("share", "cores", "wanted", "live", "sentence"),
    [
        (0.01, 4, None, 321, "321 live sources .* carries 320 with 4 of its 4 cores, each at 80%, .* 1.00%; remove"),
        (0.01, 4, 2, 161, "161 live sources .* carries 160 with 2 of its 4 cores, .*; workers: 4 carries 320, and"),
        (0.01, 4, 1, 81, "carries 80 with 1 of its 4 cores, .*; workers: 4 carries 320, and another machine may"),
        (0.01, 2, 8, 161, "carries 160 with 2 of its 2 cores, .*; remove some, or another machine may hear the rest"),
        (0.9, 2, None, 1, "1 live sources .* carries 0 with 2 of its 2 cores, .* takes 90.00%; remove some"),
    ],
)
def test_more_live_sources_than_the_workers_carry_are_refused_with_the_remedy(share, cores, wanted, live, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        plan(sources(live, 5, 5), share, cores=cores, wanted=wanted)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wanted", [None, 1, 4])
def test_what_only_the_daemon_itself_can_hear_is_no_more_than_one_process_carries(wanted):
    network: dict[str, SourceConfig] = {f"net{i}": NetworkSource() for i in range(80)}
    plan(network, 0.01, cores=4, wanted=wanted)
    with pytest.raises(
        ConfigError, match=r"^81 sources hear the network .* carries 80 here, .* 1\.00%; another daemon"
    ):
        plan(network | {"one": NetworkSource()}, 0.01, cores=4, wanted=wanted)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5])
def test_every_source_is_heard_by_one_worker_and_the_live_ones_are_spread(n_workers):
    found = sources(7, 4, 3)
    spread = parts(found, n_workers)
    assert sorted(name for part in spread for name in part) == sorted(found)
    live = [sum(name.startswith("mic") for name in part) for part in spread]
    assert max(live) - min(live) <= 1
    assert max(map(len, spread)) - min(map(len, spread)) <= 1


def orders(n_sources: int) -> Orders:
    model = load_model(packaged("models/serstream"))
    return Orders(
        session="6f1c",
        started_s=0.0,
        sources=sources(n_sources),
        speech=SpeechConfig(),
        wishes=Wishes(decision=DecisionConfig(), log_level=20),
        manifest=model.manifest,
        network=model.content,
        runtime="litert",
    )


def test_what_a_source_costs_here_is_measured_with_the_network_where_there_are_many(monkeypatch):
    share = measure(orders(MEASURED_FROM + 1))
    assert 1e-5 < share < 0.5
    monkeypatch.setattr("serstream.admission.measure", lambda _: 1.0)
    assert workers_for(orders(MEASURED_FROM), None) == 0
    with pytest.raises(ConfigError, match=f"{MEASURED_FROM + 1} live sources are configured"):
        workers_for(orders(MEASURED_FROM + 1), None)
