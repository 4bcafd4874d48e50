// What every page has: theme, copying, dialogs, menus, keyboard, selection, times, toasts, live updates.
import "./htmx.js";
import { startLive } from "./live.js";
import { startKeys } from "./keys.js";
import { startDialogs } from "./dialogs.js";
import { startTables } from "./tables.js";
import { startTimes } from "./times.js";
import { startToasts } from "./toasts.js";
import { startSearch } from "./search.js";
import { startForms } from "./forms.js";
import { startTheme } from "./switch.js";
import { startCopy } from "./copy.js";
import { startListLoad } from "./listload.js";

startTheme();
startCopy();
startDialogs();
startTables();
startKeys();
startTimes();
startToasts();
startSearch();
startForms();
startLive();
startListLoad();
