"""Table 8, a language model of twice the size. `python runs/tab8.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(8)
