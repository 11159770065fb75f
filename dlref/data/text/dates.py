"""Generated dates in everyday formats and in ISO 8601, the task of *Deep Learning from Scratch 2*, chapter 8."""

import datetime
from collections.abc import Callable

import torch
from torch import Tensor

from dlref.data.text.generated_pairs import GeneratedPairs

FIRST = datetime.date(1970, 1, 1)
DAYS = (datetime.date(2018, 1, 1) - FIRST).days
WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June",
          "July", "August", "September", "October", "November", "December"]  # fmt: skip
Case = Callable[[str], str]
CASES: list[tuple[Case, float]] = [(str, 1 / 2), (str.lower, 1 / 4), (str.upper, 1 / 4)]  # and how often
FORMS = 1 + 3 * len(CASES)  # of a date


class Dates(GeneratedPairs):
    """`september 27, 1994` to `1994-09-27`: `size` distinct dates of the years 1970 to 2017.

    Four formats are equally frequent: `9/27/94`, `Sep 27, 1994`, `September 27, 1994` and `Tuesday, September 27, 1994`.
    Half of the dates are capitalized as here, a quarter is in lower case and a quarter in upper case. The formats are then
    distributed about as in the book's `date.txt`, which `file` reads instead, each distinct source once. Raises ConfigError
    for more dates than there are.
    """

    def weights(self) -> Tensor:
        weights = torch.tensor([1.0, *(frequency for _, frequency in CASES * 3)]).double().repeat(DAYS, 1)
        may = torch.tensor([day_of(number).month == 5 for number in range(DAYS)])[:, None]
        form = torch.arange(
            FORMS
        )  # 1 to 3 have short names of months, 4 to 6 long ones; the two names of May are equal
        doubled, absent = may & (form >= 1) & (form <= 3), may & (form >= 4) & (form <= 6)
        return (weights * (1 + doubled.double() - absent.double())).flatten()

    def pair(self, number: int) -> tuple[str, str]:
        day = day_of(number // FORMS)
        return formatted(day, number % FORMS), day.isoformat()


def day_of(number: int) -> datetime.date:
    return FIRST + datetime.timedelta(number)


def formatted(day: datetime.date, form: int) -> str:
    """Form 0 is of digits alone; then come three formats, each in the three CASES."""
    if form == 0:
        return f"{day.month}/{day.day}/{day.year % 100:02}"
    month, rest = MONTHS[day.month - 1], f"{day.day}, {day.year}"
    text = (f"{month[:3]} {rest}", f"{month} {rest}", f"{WEEK[day.weekday()]}, {month} {rest}")[(form - 1) // 3]
    return CASES[(form - 1) % 3][0](text)
