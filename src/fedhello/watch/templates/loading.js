"use strict";
(() => {
  const said = document.getElementById("said"), since = document.getElementById("since");
  const begun = Date.now();
  setInterval(() => { since.textContent = `${Math.round((Date.now() - begun) / 1000)} s`; }, 1000);
  const events = new EventSource("events" + location.search);
  events.addEventListener("status", (event) => {
    const status = JSON.parse(event.data);
    if (status.phase === "loading") said.textContent = status.said || "loading …";
    else location.reload();
  });
  events.onerror = () => { said.textContent = "the run is not there; if its terminal shows an error, start it again"; };
})();
