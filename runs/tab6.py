"""Table 6, adapters. `python runs/tab6.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(6)
