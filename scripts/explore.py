"""Look inside a model while it reads your text: a local page, which asks the model for every number that it shows."""

import webbrowser

from start import command_line

from minigrad import use_kernels
from scripts.pages.explore_data import Looker
from scripts.pages.local_server import LocalServer, check_port
from scripts.shared.web_page import page_of_data

EXAMPLES = """examples:
  python scripts/explore.py                      runs/demo; prints the page's address and opens it
  python scripts/explore.py --model smollm2 --text "The capital of France is"
The page shows the surprise at each token, what else could follow (click to continue with it), the prediction after each
layer, where every head looks, and what changes if heads or layers are switched off or a number is changed.
In the second example, switch off head 23.4, which looks from "is" at "France": Paris falls from 77 % to 14 %.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    command_line.add_shared(parser, "model", "packed", "adapter")
    parser.add_argument("--text", default="Once upon a time there was a brave little", help="the text at the start")
    parser.add_argument("--port", type=command_line.whole_number(0, 65535), default=0, help="0 takes any free port")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    arguments = parser.parse_args(argv)
    check_port(arguments.port)
    use_kernels("fast")
    looker = Looker(*command_line.load(arguments, "cpu"))
    looker.look({"text": arguments.text})  # raises where the text does not fit
    with LocalServer(explorer_page(arguments.model, arguments.text), looker.look, arguments.port) as server:
        print(f"open {server.address}   (only this machine can reach it; Ctrl-C stops it)", flush=True)
        if not arguments.no_browser:
            webbrowser.open(server.address)
        server.serve_forever()
    return 0


def explorer_page(model: str, text: str) -> str:
    """The page. Its script may connect to the server that it came from, and to no other."""
    return page_of_data("explore.html explore.js", f"Explore {model}", {"model": model, "text": text})


if __name__ == "__main__":
    command_line.run(main)
