"""Tools for `flowkit.examples.react_agent`, and the script that plays its model offline."""

import ast
import json
from collections.abc import Sequence

from flowkit.examples._model import Message, Reply, ToolCall

RIVERS = {"amazon": 6400, "danube": 2850, "nile": 6650, "rhine": 1233}


def river_length(river: str) -> str:
    """The length of a river, in kilometres."""
    return f"{RIVERS[river.lower()]} km"


def calculate(expression: str) -> float:
    """The value of an expression of numbers, + - * / and parentheses."""

    def value(node: ast.AST) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return value(left) / value(right)
            case _:
                raise ValueError(f"{ast.unparse(node)} is none")

    return round(value(ast.parse(expression, mode="eval").body), 6)


QUESTION = "By how many percent is the Nile longer than the Rhine?"


def script(messages: Sequence[Message]) -> Reply:
    """What is said offline."""
    told = [message["content"] for message in messages if message["role"] == "tool"]
    if messages[1]["content"] != QUESTION:
        return Reply(f"I am a script and know one question: {QUESTION}")
    match told:
        case []:
            calls = [ToolCall(name, "river_length", json.dumps({"river": name})) for name in ("Nile", "Rhine")]
            return Reply("I need both lengths.", tuple(calls))
        case [nile, rhine]:
            expression = f"({nile.split()[0]} / {rhine.split()[0]} - 1) * 100"
            return Reply("Now the difference.", (ToolCall("sum", "calculate", json.dumps({"expression": expression})),))
        case _:
            return Reply(f"The Nile is {float(told[-1]):.0f} percent longer than the Rhine.")
