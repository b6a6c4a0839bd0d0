"use strict";
// Says how old the page is, and that its run has died when it is too old.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const age = document.getElementById("age");
  const died = document.getElementById("died");
  const say = () => {
    const seconds = Math.max(0, Math.round(Date.now() / 1000 - data.written));
    const told = seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} minutes`;
    age.textContent = `It is ${told} old.`;
    died.hidden = seconds <= data.silence;
    age.hidden = false;
  };
  say();
  setInterval(say, 1000);
})();
