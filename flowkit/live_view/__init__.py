"""Runs as they go, in a terminal: ``with LiveView(): await workflow.run()``.

Needs the extra ``cli`` (rich) to draw; plain lines need nothing. Where things live, innermost first:

    texts              whatever comes in, as one harmless line
    board              what is going on, as numbers: an Instrument without a terminal
    frame              what there is to see at one moment, as rows; which of them fit
    layout             rows as lines of coloured text, for a width
    lines              what happens, as plain lines, where there is no terminal
    screen             the part of a terminal that is drawn over and over, and its good state afterwards
    diversion          what a program prints meanwhile
    display            a board on a screen
    view               LiveView: the thread that draws, and the block around it
"""

from flowkit.live_view.view import LiveView

__all__ = ["LiveView"]
