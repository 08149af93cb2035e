"""Abbreviations after which no sentence ends, of English, German, French, Spanish, Italian,
Portuguese, Dutch and Russian.

Only those that are no common words: "He was ill." ends a sentence, whatever "ill." may stand for.
"""

_ANY_CASE = """
    dr drs mr mrs messrs prof profs assoc asst univ dept inst ltd inc corp bros mfg mfr assn attn
    approx incl excl viz vs cf resp eds esp govt hosp intl natl ibid bldg blvd hwy pkwy ste ca jr
    esq eq eqs fig figs sects secs chs chap chaps refs vols suppl supp tbl

    abb abt allg amtl anh anl anm aufl bd bearb bes betr bez bspw bzw christl dgl dipl dt ehem engl
    entspr evtl exkl frz geb gebr gegr gest ggf ggü hrsg ing inh inkl insb insbes jahrg jh jhdt joh
    kap kto mio mrd nachf nachm nördl östl österr röm sog staatl stellv südl taf techn tgl theol
    tsd urspr usw versch vgl vorm westl wiss ziff zus zzgl übers

    anc appt apr auj av bât boul cie coll dép éd éds édit env ets éts fasc fém gén hôt masc mgr mlle
    mlles mme mmes parag pl rédac réf rés sté tél vve

    admón almte aprox arq atte avda cía cnel comdte ctra dcha depto dña dpto dra dres dto edif
    entlo excma excmo fca fdez gral hno hnos ilma ilmo izq izqda lcda lcdo lda ldo lic mtra mtro
    núm pbro pág págs párr pdta pdte plza profa pte pza rvda rvdo sdad sgto sra sras sres srta supl
    teléf tfno tte ud uds urb vd vds

    avv cfr dott egr geom pag pagg sig sigg spett exma exmo engº lgo apto bijv blz dhr mevr

    авт адм акад бул букв вв вып гг гл гос гр деп дер дисс дол долл доц ежедн зам зап заруб изд илл
    им инж иностр инст кап канд кв корп мкр млн млрд моск наб напр нач нед обл оз пгт пер пл полк
    пос пр прибл прил прим просп проф разд ред респ рис руб св см сокр сост ср стр табл тел тов тыс
    ул чл ген

    acct amdt amt assoc attys bart benj bldgs cert chas cit cmdr comdr cont contd cres dict diss
    encl engr equip eqn eqns est exec expy fn fol fols fwy geo hdqrs hosp illus jas jct lieut
    mgmt mgr misc mkt mss mssrs mtg mtn nos num obs orig paras pfc pkg pref publ qty rcvd recd reg
    regd repr retd rpt sched seq ser sgd sq sqq ssp spp std stn subch subj subpt subsec
    subsp var surg svc terr thos tsp tbsp twp wm yds

    abk amerik arab ärztl ausg ausl bhf biol brit bsp bzgl chem darst einl elektr erg ergb europ
    ges gesch gesetzl griech hbf hebr hg hgg inländ ital jährl jg kaufm kgl kl komm konf lfd lfg
    lt mdl mech mitgl mitt monatl mwst näml obb phys pol poln rd russ schr schriftl sekr
    slg sogen sp tägl telef tschech türk unbek ungef urk usf veränd verl vermutl verz vj
    vorl wb wwe zit zs zschr zt ztg zw

    ann archit arr bibliogr contr faub fg gouv géogr impr inéd introd liv méd nat
    nouv occ ouvr préf prés princ prov qqch qqn rééd rép soc suiv sup théol tit vx

    adj admvo ago ayte bco cdad cial cód contab coord corr crta cta cte dcho deleg distr
    edo ej est ext igl impto izdo lám loc máx mín mons mun ntra ntro obpo ppal pral pról
    ptas rte secr seg sucs supte tít vto

    eng ecc fasc lett proff segg sez tav trad uff voll pça séc seç trav
    afb afd afl bijl enz evt hfst ir mw opm plm vnl voorz zgn

    авг апр бульв вост воен геогр греч губ дек дир ед журн зав ин исп итал кол конф лат лейт
    макс мес мин мин назв нар научн нем ниж нояб окт опубл осн отв отд подп пом пред предс
    прот рег рук рус сб сев сект сек сент собр спец стат терр тех трад уч февр физ филол фин хим
    худ цит шир экон эл юж юр яз янв"""
# In upper case these are names and words, in lower case those further below.
_LOWER = (
    "al arch bibl deg dent habil hist jur kath med nat phil rer str temp trad mons ed fam max min"
)
_CAPITALISED = """
    Abp Adm Ald Amb Atty Ave Bp Brig Capt Cdre Cmdr Co Col Cpl Dep Det Dir Ens Ext Fr Gen Gov Hon
    Insp Lt Maj Min Ms Mt Op Pres Pvt Rep Rev Sec Sen Sgt Sr St Supt Treas Vol
    Acad Appl Biol Chem Ecol Environ Eur Math Phys Proc Sci Soc Technol
    Ariz Calif Colo Conn Fla Mich Minn Okla Tenn Wis Wyo
    Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec
    Bgm Fa Frl Hauptm Hr Hrn Mag Präs Str Tel Verf Vors
    Apt Const Dn EE Eng Fdo Ind MM Mons Pol Sta Sto Trav
    Ala Alta Ark Ill Kan Kans Mass Mont Neb Nebr Nev Ont Ore Pa Penn Penna Que Sask Tex Va Wash
    Wisc Biochem Bot Br Bull Bur Cdt Cir Clin Comm Comp Comput Conf Dis Dist Div Econ Edw Educ Fed
    Genet Geol Infect Jos Lett Mem Mol Neurol Nutr Preb Reps Robt Sens Stat Surg Trans Ven Virol
    Zool Fam Pub Seb"""
# These stand before a name or an example: no sentence ends after them whatever follows.
_BEFORE_NAMES = """
    dr drs mr mrs ms messrs prof mgr msgr mlle mlles mme mmes mm hr hrn frl fr sr sra sras sres
    srta dra dña dn sto sta sig dott dhr mevr rev hon gen gov sen rep capt col lt sgt maj cpl pvt
    mt ft av avda pza plza bd cf cfr vs vgl bspw sog e.g i.e eg ie z.b d.h p.ex"""
BEFORE_NAMES = frozenset(_BEFORE_NAMES.split())
ABBREVIATIONS = frozenset(_ANY_CASE.split())
AS_WRITTEN = frozenset((*_LOWER.split(), *_CAPITALISED.split()))
