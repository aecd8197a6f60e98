"""Table 2, captions, by method and number of tokens. `python runs/tab2.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(2)
