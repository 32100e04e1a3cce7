"use strict";
// Fetches the page every five seconds and replaces the sections that changed. The reader keeps his place: a section with a
// selection is not replaced, opened details stay open, the focus stays, and what is at the top of the window stays there when
// something above it grows.
(() => {
  const EVERY = 5000;
  const main = document.querySelector("main");
  const lost = document.getElementById("lost");
  let answered = new Date();

  // The section as the server wrote it: details that the reader opened are no change.
  const written = (part) => {
    const copy = part.cloneNode(true);
    copy.querySelectorAll("details[open]").forEach((details) => details.removeAttribute("open"));
    return copy.outerHTML;
  };

  const inUse = (part) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(part, true);
  };

  // The first visible element with an id: the reader's place.
  const place = () => {
    const named = [...main.querySelectorAll("[id]")];
    const first = named.find((element) => element.getBoundingClientRect().bottom > 0 && element.getClientRects().length > 0
      && element.getBoundingClientRect().top >= 0);
    return first && { id: first.id, top: first.getBoundingClientRect().top };
  };

  const replace = (before, after) => {
    before.querySelectorAll("details[open]").forEach((details) => {
      const same = after.querySelector(`#${CSS.escape(details.id)}`);
      if (same) same.open = true;
    });
    const focused = before.contains(document.activeElement) ? document.activeElement.id : "";
    before.replaceWith(after);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const show = (page) => {
    const at = window.scrollY > 0 ? place() : null;
    const ids = new Set();
    let last = null;
    for (const after of [...page.querySelectorAll("main > [id]")]) {
      ids.add(after.id);
      const before = document.getElementById(after.id);
      if (!before) {
        last ? last.after(after) : main.prepend(after);
        last = after;
      } else if (inUse(before) || written(before) === written(after)) {
        last = before;
      } else {
        replace(before, after);
        last = after;
      }
    }
    [...main.children].filter((part) => !ids.has(part.id) && !inUse(part)).forEach((part) => part.remove());
    document.title = page.title;
    const same = at && document.getElementById(at.id);
    if (same) window.scrollBy({ top: same.getBoundingClientRect().top - at.top, behavior: "instant" });
  };

  const refresh = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(EVERY) });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!answer.ok || !page.getElementById("verdict")) throw new Error("not the page");
        show(page);
        answered = new Date();
        lost.hidden = true;
      } catch {
        lost.textContent = `The exporter has not answered since ${answered.toISOString().slice(11, 19)} UTC. `
          + "The page shows its last answer.";
        lost.hidden = false;
      }
    }
    setTimeout(refresh, EVERY);
  };
  setTimeout(refresh, EVERY);
})();
