"""Table 9, retrieval by one word. `python runs/tab9.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(9)
