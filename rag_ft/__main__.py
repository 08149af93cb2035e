"""`python -m rag_ft ...`, which `accelerate launch -m rag_ft` and `torchrun -m rag_ft` start."""

import sys

from rag_ft.cli import main

if __name__ == "__main__":
    code = main()
    if "torch" in sys.modules and not code:
        # After an error the launcher ends the other processes, which may still wait for this one.
        from rag_ft.training.distributed import leave_processes

        leave_processes()
    sys.exit(code)
