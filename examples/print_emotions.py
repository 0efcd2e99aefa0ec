"""Print every emotion of a running daemon, as it begins and as it ends."""

from serstream import Emotion, Lost, Subscriber

with Subscriber(types=["emotion"]) as subscriber:
    for event in subscriber:
        if isinstance(event, Lost):
            print(f"{event.n_events} events were lost")
        elif isinstance(event, Emotion) and event.phase != "update":
            print(f"{event.time}  {event.source}  {event.phase} {event.label} ({event.probability:.0%})")
