"""Figures with menus where a person can choose."""

from __future__ import annotations

import ipywidgets
import pytest

from glacier_utils.plotting import style

OPTIONS = {"bands": {"true colour": (0, 1, 2), "near infrared": (3, 0, 1)}, "cut": [0.4, 0.1, 0.7]}


@pytest.fixture
def drawn():
    return []


@pytest.fixture
def choose(drawn):
    def draw(bands, cut):
        drawn.append((bands, cut))

    return lambda: style.choose(draw, **OPTIONS)


def test_without_a_person_the_first_is_drawn_once(choose, drawn, monkeypatch, capsys):
    monkeypatch.delenv(style.SESSION, raising=False)
    monkeypatch.setattr(ipywidgets, "interact", None)
    choose()
    assert drawn == [((0, 1, 2), 0.4)]
    assert capsys.readouterr().out == ""


def test_in_jupyter_there_are_controls(choose, drawn, monkeypatch):
    monkeypatch.setenv(style.SESSION, "01.ipynb")
    shown = []
    monkeypatch.setattr(ipywidgets, "interact", lambda draw, **controls: shown.append(controls))
    choose()
    (controls,) = shown
    assert controls["bands"].value == (0, 1, 2)
    assert [text for text, _ in controls["bands"].options] == ["true colour", "near infrared"]
    assert controls["cut"].value == 0.4
    assert controls["cut"].options == (0.1, 0.4, 0.7)


def test_a_choice_is_drawn(choose, drawn, monkeypatch):
    monkeypatch.setenv(style.SESSION, "01.ipynb")
    made = []
    control = style._control
    monkeypatch.setattr(style, "_control", lambda own: made.append(control(own)) or made[-1])
    choose()
    made[0].value = (3, 0, 1)
    assert drawn == [((0, 1, 2), 0.4), ((3, 0, 1), 0.4)]
