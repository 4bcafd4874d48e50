const problem = document.querySelector("#problem");
const signIn = document.querySelector("#sign-in");
const write = document.querySelector("#write");
const main = document.querySelector("main");

async function call(method, path, body) {
  const answer = await fetch(`/api/${path}`, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body ? JSON.stringify(body) : undefined,
  });
  const value = await answer.json().catch(() => ({ problem: "the server does not answer" }));
  if (!answer.ok) throw Object.assign(new Error(value.problem), { status: answer.status });
  return value;
}

function line(note) {
  const item = document.createElement("li");
  item.textContent = note.text;
  const time = document.createElement("time");
  time.dateTime = note.written_at;
  time.textContent = new Date(note.written_at).toLocaleString();
  item.append(time);
  return item;
}

async function show() {
  try {
    const { notes } = await call("GET", "notes");
    document.querySelector("#notes").replaceChildren(...notes.map(line));
    problem.textContent = "";
    main.hidden = false;
  } catch (error) {
    main.hidden = true;
    problem.textContent = error.status === 401 ? "" : error.message;
  }
  signIn.hidden = !main.hidden;
}

function does(form, action) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await action(Object.fromEntries(new FormData(form)));
      form.reset();
      await show();
    } catch (error) {
      problem.textContent = error.message;
    }
  });
}

does(signIn, (values) => call("POST", "sign-in", values));
does(write, (values) => call("POST", "notes", values));
document.querySelector("#sign-out").addEventListener("click", async () => {
  await call("POST", "sign-out").catch((error) => { problem.textContent = error.message; });
  await show();
});
show();
