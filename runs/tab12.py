"""Table 12, attention in pass 1. `python runs/tab12.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(12)
