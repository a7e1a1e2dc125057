// Keeps the page fresh, and searches while one types. Without it the page works by forms, links and a slow reload.
"use strict";
(() => {
  const refreshMilliseconds = 5000;
  const typingMilliseconds = 250;
  let newest = 0;

  async function fetchInto(address) {
    const number = ++newest;
    const answer = await fetch(address, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (answer.ok && fresh && number === newest) {
      replace(fresh);
    }
  }

  // What holds the focus stays the very element that it is, so that nobody is interrupted.
  function replace(fresh) {
    const old = document.getElementById("live");
    const form = old.querySelector("form.search");
    if (form && form.contains(document.activeElement)) {
      const field = document.activeElement;
      const [from, to] = [field.selectionStart, field.selectionEnd];
      fresh.querySelector("form.search")?.replaceWith(form);
      old.replaceWith(fresh);
      field.focus();
      if (field.type === "search") {
        field.setSelectionRange(from, to);
      }
      return;
    }
    if (old.contains(document.activeElement)) {
      return;
    }
    const scrolled = [...old.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    old.replaceWith(fresh);
    fresh.querySelectorAll(".scroll").forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
  }

  function search(form) {
    const wanted = new URLSearchParams(new FormData(form));
    [...wanted].filter(([, value]) => !value).forEach(([name]) => wanted.delete(name));
    const address = `${location.pathname}?${wanted}`;
    history.replaceState(null, "", address);
    fetchInto(address).catch(() => {});
  }

  let typing = 0;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form.search");
    if (form) {
      clearTimeout(typing);
      typing = setTimeout(() => search(form), typingMilliseconds);
    }
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches("form.search")) {
      event.preventDefault();
      search(event.target);
    }
  });
  setInterval(() => {
    if (document.visibilityState === "visible") {
      fetchInto(location.href).catch(() => {});
    }
  }, refreshMilliseconds);
})();
