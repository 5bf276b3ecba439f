"`python -m attn_lit` is the command `attn-lit`."
from .command import main

if __name__ == "__main__": main()
