"""Table 5, losses. `python runs/tab5.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(5)
