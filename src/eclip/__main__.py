"""`python -m eclip`: the command line as a module, for example for `torchrun -m eclip train`."""

from eclip.cli import main

if __name__ == "__main__":
    main()
