# SPDX-License-Identifier: MIT
"""One story in the making. The schemas in plots.py and plots_more.py tell it, and note the facts
that a reader could be asked for.

A sentence is a template: `[a|b]` picks one wording, `{h}` and its like name the characters. Who has
what and who is where is fixed by the plot, so every wording of a plot stays coherent; hero and
friend never share a pronoun, and an animal is "it".

h hero, f friend, a animal, o object, p home, q a place outdoors, r a place with people.
"""

import re

import words as w

CHOICE = re.compile(r"\[([^\[\]]*)\]")


class Tale:
    """One story in the making: its cast, its sentences, its facts."""

    def __init__(self, rng, hero, friend, noun=None, animal=None):
        """A request may bring its own object and animal; all else is drawn."""
        self.rng, self.h, self.f = rng, hero, friend
        first, self.other = rng.some(w.OBJECTS, 2)
        noun = noun or first
        colour, self.colour2 = rng.some(w.COLOURS, 2)
        self.o = w.Thing(noun, colour)
        self.p, self.q, self.r = (
            w.Place(*rng.pick(group)) for group in (w.HOMES, w.OUTDOORS, w.INDOORS))
        self.a = w.Animal(animal or rng.pick(w.ANIMALS),
                          rng.pick(["young", "old", "small", "clever", "grey"]))
        self.env = dict(
            h=self.h, f=self.f, o=self.o, a=self.a, p=self.p, q=self.q, r=self.r,
            food=rng.pick(w.FOODS), kin=rng.pick(w.KIN), sad=rng.pick(w.SAD),
            glad=rng.pick(w.GLAD), trait=rng.pick(w.TRAITS), weather=rng.pick(w.WEATHER),
            time=rng.pick(w.TIMES), hiding=rng.pick(w.HIDING))
        self.env["atrait"] = w.an(self.env["trait"])
        self.out, self.facts = [], []

    def fill(self, text):
        while "[" in text:
            text = CHOICE.sub(lambda m: self.rng.pick(m.group(1).split("|")), text)
        text = text.format_map(self.env)
        return text[0].upper() + text[1:] if text[0].islower() else text

    def t(self, *sentences):
        self.out += [self.fill(s) for s in sentences]

    def para(self):
        self.out.append("\n\n")

    def fact(self, question, answer, key):
        self.facts.append((self.fill(question), self.fill(answer), self.fill(key).lower()))

    def text(self):
        return " ".join(self.out).replace(" \n\n ", "\n\n")

    def start(self):
        """Who the hero is and where the hero lives."""
        self.t(self.rng.pick([
            "[Once upon a time|Long ago|Once|Not so long ago|Many years ago], there was "
            "[a {h.kind}|{atrait} {h.kind}] called {h} who lived [in a small house {p.at}|{p.at}].",
            "[Once upon a time|Long ago|Many years ago], there lived [a {h.kind}|{atrait} {h.kind}]"
            " called {h} {p.at}.",
            "{h} was {atrait} {h.kind} who lived {p.at}.",
            "{h} lived in [a small|an old|a little] house {p.at}.",
            "in [a small|an old|a little] house {p.at} lived {atrait} {h.kind} called {h}."]))
        self.fact("Where did {h} live?", "{h} lived {p.at}.", "{p}")

    def day(self):
        """How a sentence about the day begins; the schema goes on with what happened."""
        if self.rng.percent(25):
            air = self.rng.pick(w.AIR[self.env["weather"]].split("|"))
            return f"it was a {{weather}} {{time}}, and {air}. That {{time}}"
        return "[one {weather} {time}|one day|on a {weather} {time}|one {weather} day]"

    def own(self):
        """The hero owns the object from the start."""
        self.t("[{h.he} had|the thing {h.he} loved most was|{h.his} dearest thing was] {o.new}"
               "[|, a gift from {h.his} {kin}].")
        self.colour()

    def colour(self):
        self.fact("What colour was {o.the}?", "{o.the} was {o.colour}.", "{o.colour}")
