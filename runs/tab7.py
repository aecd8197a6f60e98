"""Table 7, double against single forward. `python runs/tab7.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(7)
