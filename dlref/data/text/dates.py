"""Dates as people write them, and as ISO 8601 does, generated: the task of *Deep Learning from Scratch 2*, chapter 8."""

import datetime
from collections.abc import Callable

import torch
from torch import Tensor

from dlref.data.text.generated_pairs import DrawnPairs

FIRST = datetime.date(1970, 1, 1)
DAYS = (datetime.date(2018, 1, 1) - FIRST).days
WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June",
          "July", "August", "September", "October", "November", "December"]  # fmt: skip
Case = Callable[[str], str]
CASES: list[tuple[Case, float]] = [(str, 1 / 2), (str.lower, 1 / 4), (str.upper, 1 / 4)]  # of letters, and how often
WAYS = 1 + 3 * len(CASES)  # to write a day


class Dates(DrawnPairs):
    """`september 27, 1994` -> `1994-09-27`: `size` distinct ones of the years 1970 to 2017.

    Four formats are drawn equally often, `9/27/94`, `Sep 27, 1994`, `September 27, 1994` and `Tuesday, September 27, 1994`,
    in letters as here half of the time, else all small or all large; this gives about the shares of the book's `date.txt`,
    which `file` reads instead, each distinct source once. Raises ConfigError for more than there are.
    """

    def chances(self) -> Tensor:
        chances = torch.tensor([1.0, *(share for _, share in CASES * 3)]).double().repeat(DAYS, 1)
        may = torch.tensor([day_of(number).month == 5 for number in range(DAYS)])[:, None]
        ways = torch.arange(WAYS)  # short names of months are 1 to 3, long ones 4 to 6, and May has but one name
        doubled, gone = may & (ways >= 1) & (ways <= 3), may & (ways >= 4) & (ways <= 6)
        return (chances * (1 + doubled.double() - gone.double())).flatten()

    def pair(self, number: int) -> tuple[str, str]:
        day = day_of(number // WAYS)
        return written(day, number % WAYS), day.isoformat()


def day_of(number: int) -> datetime.date:
    return FIRST + datetime.timedelta(number)


def written(day: datetime.date, way: int) -> str:
    """The first way is of digits; of the others each three are one format in the letters of CASES."""
    if way == 0:
        return f"{day.month}/{day.day}/{day.year % 100:02}"
    month, rest = MONTHS[day.month - 1], f"{day.day}, {day.year}"
    text = (f"{month[:3]} {rest}", f"{month} {rest}", f"{WEEK[day.weekday()]}, {month} {rest}")[(way - 1) // 3]
    return CASES[(way - 1) % 3][0](text)
