"""`python -m eclip`: the command line where a module is asked for, as by `torchrun -m eclip train`."""

from eclip.cli import main

if __name__ == "__main__":
    main()
