"""The examples can be drawn: what they may do, and what a run of them did."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from flowkit import StartEvent, Workflow
from flowkit.drawing import draw_all_possible_flows, draw_most_recent_execution, to_mermaid, to_svg
from flowkit.examples import approval, ask_folder, joke, react_agent, text_to_sql
from flowkit.examples._model import Scripted

FLOWS: dict[str, tuple[Workflow, StartEvent]] = {
    "joke": (joke.JokeFlow(Scripted(joke.script)), joke.Topic("cats")),
    "approval": (approval.Approval(approval.Ledger(Path("/dev/null"))), approval.Claim("pencil", 2.5)),
    "react_agent": (
        react_agent.ReActAgent(Scripted(react_agent.script), [react_agent.river_length, react_agent.calculate]),
        react_agent.Ask(react_agent.QUESTION),
    ),
    "text_to_sql": (
        text_to_sql.TextToSql(Scripted(text_to_sql.script)),
        text_to_sql.Ask(text_to_sql.QUESTION),
    ),
    "ask_folder": (ask_folder.AskFolder(), ask_folder.Ask(Path(__file__).parent / "golden", "why?")),
}


@pytest.mark.parametrize("name", FLOWS)
async def test_an_example_is_drawn(name: str, tmp_path: Path) -> None:
    flow, start = FLOWS[name]
    draw_all_possible_flows(flow, tmp_path / "all.html")
    async with flow.run(start_event=start) as handler:
        await handler
    draw_most_recent_execution(flow, tmp_path / "recent.html")
    pictures = [to_svg(flow), to_svg(handler)]
    pages = [(tmp_path / f"{each}.html").read_text(encoding="utf-8") for each in ("all", "recent")]
    for step in flow.step_names():
        assert step in pages[0] and step in pictures[0] and step in to_mermaid(flow)
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert type(start).__name__ in pages[1]
