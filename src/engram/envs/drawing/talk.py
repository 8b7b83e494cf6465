"""A dialogue about tickets: what is known of each slot, and who said what last."""

from typing import Any

import numpy as np

from engram.envs.drawing.canvas import BLUE, GREEN, INK, ORANGE, PALE, RED, SHADE, TEAL, Canvas, Picture

ROW, LEFT, MOST = 7, 62, 18  # pixels of a slot; where its squares begin; slots that are drawn
LONGEST = 14  # letters of a slot


def dialogue(env: Any, state: Any) -> Picture:
    """A line for each slot: blue where the user said a value, teal where the agent did, and what is asked for.

    Below: the last act of each side. A square is pale where nothing is known; a dot says that it is sure.
    """
    data, heard = env.data, state.heard
    shown = min(MOST, len(data.slots))
    canvas = Canvas(160, ROW * (shown + 4) + 4)
    values, of_user, sure = np.asarray(heard.values), np.asarray(heard.of_user), np.asarray(heard.sure)
    asked, informs = np.asarray(heard.asked), np.asarray(heard.act.informs)
    for place, name in enumerate(data.slots[:shown]):
        y = ROW * place + 5
        canvas.text(name[:LONGEST].replace("_", " "), 30, y, INK if values[place] >= 0 or asked[place] else SHADE)
        colour = PALE if values[place] < 0 else BLUE if of_user[place] else TEAL
        canvas.rectangle(LEFT, y - 3, LEFT + 10, y + 3, SHADE if values[place] == -2 else colour)
        if sure[place]:
            canvas.disc(LEFT + 5, y, 1.5, PALE)
        if asked[place]:
            canvas.text("?", LEFT + 16, y, ORANGE)
        if informs[place] != -1:
            canvas.rectangle(LEFT + 20, y - 2, LEFT + 24, y + 2, ORANGE)
        if values[place] >= 0:
            canvas.text(data.values[place][values[place]][:17], LEFT + 62, y, INK)
    y = ROW * shown + 8
    action = int(heard.action)
    said = env.acts.names[action] if action >= 0 else "-"
    canvas.text("AGENT " + said.replace("_", " ")[:30], 80, y, TEAL if bool(heard.found) else RED)
    user = ("REQUEST", "INFORM", "DENY", "YES", "THANKS")[int(heard.act.intent)]
    canvas.text("USER " + user + (" TICKET" if int(heard.act.asks) == len(data.slots) else ""), 80, y + ROW, BLUE)
    if bool(heard.shown):
        canvas.rectangle(2, y + 2 * ROW - 2, 8, y + 2 * ROW + 4, GREEN)
    canvas.rectangle(0, canvas.height - 3, canvas.width, canvas.height, SHADE)
    gone = min(1.0, 2 * int(heard.turns) / env.max_turn)
    canvas.rectangle(0, canvas.height - 3, canvas.width * gone, canvas.height, INK)
    return canvas.picture()
