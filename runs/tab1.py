"""Table 1, questions, by method and number of tokens. `python runs/tab1.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(1)
