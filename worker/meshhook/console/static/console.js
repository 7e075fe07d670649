// What the console adds where there is JavaScript: live pages, times in the viewer's zone, ticks.
"use strict";

(() => {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const body = document.body;
  const refreshMs = Number(body.dataset.refreshMs) || 5000;
  const exact = new Intl.DateTimeFormat(undefined, {
    dateStyle: "medium", timeStyle: "long",
  });

  function span(seconds) {
    for (let i = 0; i < units.length; i++) {
      const [unit, size] = units[i];
      if (seconds < size) continue;
      let text = `${Math.floor(seconds / size)} ${unit}`;
      const next = units[i + 1];
      if (next && i !== 2) {
        const rest = Math.floor((seconds % size) / next[1]);
        if (rest) text += ` ${rest} ${next[0]}`;
      }
      return text;
    }
    return "0 s";
  }

  function showTimes() {
    const now = Date.now();
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      const seconds = Math.trunc((now - at) / 1000);
      const text = seconds >= 1 ? `${span(seconds)} ago` : seconds <= -1 ? `in ${span(-seconds)}` : "now";
      if (time.textContent !== text) time.textContent = text;
      const title = exact.format(at);
      if (time.title !== title) time.title = title;
    }
  }

  // Ticking all dead letters of a page.
  function showTicks() {
    const all = document.querySelector("[data-tick-all]");
    if (!all) return;
    all.hidden = false;
    const boxes = [...document.querySelectorAll('input[name="id"]')];
    const ticked = boxes.filter((box) => box.checked).length;
    all.checked = ticked > 0 && ticked === boxes.length;
    all.indeterminate = ticked > 0 && ticked < boxes.length;
    const count = document.querySelector("[data-ticked]");
    if (count) count.textContent = ticked ? `${ticked} ticked` : "";
  }
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-tick-all]")) {
      for (const box of document.querySelectorAll('input[name="id"]')) box.checked = event.target.checked;
    }
    showTicks();
  });

  // Live pages. Nothing is asked for while the page is hidden or somebody writes in it.
  const maxRetryMs = 300000;
  let events = null;
  let poll = null;
  let retry = null;
  let retryMs = 0;
  let tickedAt = 0;
  let isLoading = false;
  let problem = "";

  const isLive = () => document.querySelector("main[data-live]") !== null;
  const isStreaming = () => Date.now() - tickedAt < refreshMs * 2.5;
  function say() {
    const place = document.querySelector("[data-live-state]");
    const text = !isLive() ? "Finished." : problem || (isStreaming() ? "Live." : "Live: asks now and then.");
    if (place && place.textContent !== text) place.textContent = text;
  }
  // What came instead of the page is not shown in its place: it would end the page for a hiccup.
  document.addEventListener("htmx:after:request", (event) => {
    const { raw, status } = event.detail.ctx.response;
    if (raw.redirected || status === 401 || status === 403) {
      problem = "You are not logged in any more: load the page again.";
    } else if (status >= 400) {
      problem = "The console cannot read the database. This is the state before; it tries again.";
    } else {
      problem = "";
      return;
    }
    event.preventDefault();
  });
  document.addEventListener("htmx:error", () => {
    // Also where a proxy sends whoever is not logged in to another site, which is not followed.
    problem = "The console does not answer, or you are not logged in any more. This is the state before; it tries again.";
  });
  async function refresh() {
    const active = document.activeElement;
    if (isLoading || document.hidden || !isLive()) return;
    if (active && active.matches("main input, main textarea, main select")) return;
    isLoading = true;
    try {
      const url = new URL(window.location.href);
      url.searchParams.delete("notice");
      await window.htmx.ajax("GET", url.pathname + url.search, {
        target: "#main", select: "#main", swap: "outerMorph",
      });
      showTimes();
      if (!isLive()) stop();
      say();
    } finally {
      isLoading = false;
    }
  }
  function stop() {
    if (events) events.close();
    window.clearInterval(poll);
    window.clearTimeout(retry);
    events = poll = retry = null;
  }
  function connect() {
    events = new EventSource(body.dataset.events);
    events.addEventListener("tick", () => {
      tickedAt = Date.now();
      retryMs = 0;
      refresh();
    });
    events.onerror = () => {
      // The browser connects again by itself, unless it was refused.
      if (events.readyState !== EventSource.CLOSED) return;
      retryMs = Math.min(maxRetryMs, Math.max(refreshMs, retryMs * 2));
      retry = window.setTimeout(connect, retryMs * (0.5 + Math.random()));
    };
  }
  function start() {
    stop();
    if (document.hidden || !isLive()) return;
    if (window.EventSource) connect();
    tickedAt = Date.now();
    say();
    // Where no ticks arrive, as behind a proxy that keeps them, the page asks by itself.
    poll = window.setInterval(() => { if (!isStreaming()) refresh(); }, refreshMs * 2);
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else { start(); refresh(); }
  });
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", (event) => { if (event.persisted) start(); });

  // A notice is said once, and not again when the page is loaded anew.
  const here = new URL(window.location.href);
  if (here.searchParams.has("notice")) {
    here.searchParams.delete("notice");
    window.history.replaceState(null, "", here);
  }
  // On a narrow screen, the header scrolls sideways.
  const current = document.querySelector("nav [aria-current]");
  if (current) current.scrollIntoView({ block: "nearest", inline: "center" });
  showTimes();
  showTicks();
  window.setInterval(() => { if (!document.hidden) showTimes(); }, 10000);
  start();
})();
