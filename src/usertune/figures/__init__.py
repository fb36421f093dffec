"""Figures: the same study in pictures that stay readable for colour-blind readers and in grey print.

Each figure has a module of its own with a function ``draw``, `usertune.figures.sheet` holds what they share, and
`usertune.figures.make` makes one by its name. A figure's module imports no other figure's and not `make`, and this
file imports nothing: what a figure imports, directly or not, is then exactly the code that it depends on.
"""
