"""Table 13, start. `python runs/tab13.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(13)
