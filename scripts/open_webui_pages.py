"""Open WebUI's pages and settings, as far as scripts/open_webui.py goes through them."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

ANSWER_S, PAGE_S = 300, 60


def until(what: str, seconds: float, reached: Callable[[], object], pause_s: float = 0.2) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {seconds:.0f} s: {what}")
        time.sleep(pause_s)


class OpenWebUI:
    """Its pages and its settings."""

    def __init__(self, url: str, page: Page, pictures: Path) -> None:
        self._url = url
        page.set_default_timeout(1000 * PAGE_S)
        expect.set_options(timeout=1000 * PAGE_S)
        self._page = page
        self._pictures = pictures
        self._client = httpx.Client(base_url=url, timeout=PAGE_S)
        signed_in = self._client.post("/api/v1/auths/signin", json={"email": "", "password": ""})
        self._client.headers["authorization"] = f"Bearer {signed_in.raise_for_status().json()['token']}"

    def connect(self, kind: str, slotwise: str) -> None:
        """To one back end alone. `kind`: openai, llama.cpp or ollama."""
        provider = kind if kind == "llama.cpp" else ""
        openai = {
            "ENABLE_OPENAI_API": kind != "ollama",
            "OPENAI_API_BASE_URLS": [f"{slotwise}/v1"],
            "OPENAI_API_KEYS": ["none"],
            "OPENAI_API_CONFIGS": {"0": {"enable": True, "provider": provider}},
        }
        ollama = {
            "ENABLE_OLLAMA_API": kind == "ollama",
            "OLLAMA_BASE_URLS": [slotwise],
            "OLLAMA_API_CONFIGS": {"0": {"enable": True}},
        }
        self._client.post("/openai/config/update", json=openai).raise_for_status()
        self._client.post("/ollama/config/update", json=ollama).raise_for_status()

    def picture(self, name: str) -> None:
        self._page.screenshot(path=self._pictures / f"{name}.png")

    def open(self, path: str = "/") -> None:
        self._page.goto(self._url + path)
        expect(self._page.locator("#chat-input")).to_be_visible()
        news = self._page.get_by_role("button", name="Okay, Let's Go!")
        # It comes a moment after the page, the first time.
        with suppress(PlaywrightTimeout):
            news.click(timeout=3000)

    def list_models(self, model: str) -> None:
        """The list of models is open, and has this one."""
        self.open()
        self._page.click("#model-selector-model-button")
        expect(self._page.get_by_role("option", name=f"Select {model} model")).to_be_visible()

    def shows_loaded(self, model: str, loaded: bool) -> None:
        """What the list says: who is loaded has a button to give its memory back."""
        self.list_models(model)
        expect(self._page.get_by_label("Eject model")).to_have_count(1 if loaded else 0)

    def eject(self, model: str, kind: str) -> None:
        self.shows_loaded(model, True)
        self._page.get_by_role("option", name=f"Select {model} model").hover()
        self.picture(f"{kind}-loaded")
        self._page.get_by_label("Eject model").click()

    def chat(self, question: str) -> tuple[int, str]:
        """How many beginnings of the answer the page has shown, and the answer."""
        self.open()
        self._page.click("#chat-input")
        self._page.keyboard.type(question)
        self._page.keyboard.press("Enter")
        answer = self._page.locator("#response-content-container")
        expect(answer).to_contain_text(re.compile(r"\S"), timeout=1000 * ANSWER_S)
        shown = [answer.inner_text()]

        def ended() -> bool:
            if (text := answer.inner_text()) != shown[-1]:
                shown.append(text)
            return self._page.get_by_label("Regenerate").count() > 0

        until("the answer ends", ANSWER_S, ended, pause_s=0.05)
        return len(shown), answer.inner_text().strip()

    def manage_ollama(self, model: str) -> None:
        """The page where models of an Ollama are pulled and deleted."""
        self.open("/admin/settings/connections")
        self._page.get_by_label("Manage", exact=True).click()
        expect(self._page.get_by_title("Select a model")).to_contain_text(model)

    def about(self, version: str) -> None:
        """The page that tells the version of the Ollama behind it."""
        self.open("/admin/settings/connections")
        self._page.get_by_role("tab", name="About", exact=True).click()
        expect(self._page.get_by_text(version, exact=True)).to_be_visible()
